"""No vCPU runs the guest with a request that it has not seen and that nobody will tell it of.

A request is a bit that others set. The vCPU looks at its requests before it enters the guest, and
whoever sets a bit later than that interrupts it. So a bit that is set while the guest runs is lost
unless an IPI is on its way: sent, pending, or about to be sent by who set the bit.

    requester                              vCPU 1
    requests1 |= request                   runs the guest
    about to look at mode1, or to          runs the guest: not lost yet
    interrupt it
    waits for nobody; goes on              runs the guest: lost
"""

from __future__ import annotations

from typing import Any

from vmm.engine.cells import Cell
from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.ops import Op
from vmm.engine.task import TaskKind
from vmm.engine.tso import bare
from vmm.engine.world import World
from vmm.hw.events import Access
from vmm.hw.pcpu import Ipi, Irq
from vmm.monitors import Oracle
from vmm.vcpu.events import Enter
from vmm.vcpu.requests import format_requests
from vmm.vcpu.vcpu import Vcpu, Vm


class LostRequest(Monitor):
    """Judges each entry and each access of the guest; it has no state."""

    name = "request/lost"
    events = (Enter, Access)

    def __init__(self, vcpus: tuple[Vcpu, ...]) -> None:
        self.vcpus = vcpus

    def on_event(self, state: None, event: Event, step: Step, view: View) -> Verdict:
        if isinstance(event, Access):
            vcpu = self.vcpus[event.pcpu]
        else:
            assert isinstance(event, Enter)
            vcpu = self.vcpus[event.vcpu]
        requests = view[vcpu.requests]
        if not requests or self._is_interrupted(vcpu, step, view):
            return state, ()
        message = (
            f"{step.task.name} runs the guest with {format_requests(requests)} requested, and no "
            "IPI is on its way"
        )
        found = SPEC.finding("request/lost", message, vcpu.requests.name, vcpu.mode.name)
        return state, (found,)

    def _is_interrupted(self, vcpu: Vcpu, step: Step, view: View) -> bool:
        pcpu = vcpu.pcpu_in(view)
        if view[pcpu.irq] is not Irq.GUEST or view[pcpu.ipi] is not Ipi.NONE:
            return True
        told: tuple[Cell[Any], ...] = (vcpu.mode, pcpu.ipi, *vcpu.place)
        return any(
            task.kind is TaskKind.FOREGROUND and (cell in vcpu.place or _stores(op, cell))
            for cell in told
            for task, op in view.accesses(cell, but=step.task)
        )


def _stores(op: Op, cell: Cell[Any]) -> bool:
    return any(written is cell for written in bare(op).written)


def _build(world: World, vm: Vm | None) -> LostRequest | None:
    del world
    return None if vm is None else LostRequest(vm.vcpus)


SPEC = Oracle(
    title="a vCPU that runs the guest has seen its requests, or is being interrupted",
    source="Documentation/virt/kvm/vcpu-requests.rst (ensuring requests are seen)",
    rule="a request made of a vCPU in the guest, or on its way in, comes with an IPI",
    build=_build,
)
