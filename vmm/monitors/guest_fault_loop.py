"""No guest access faults again and again while nobody else does anything.

    vCPU 0
    stores through gva: page fault
    acquire mmu_lock; whatever KVM does about it; release
    enters again
    stores through gva: page fault, and so on

A fault may come back: its table was zapped to let a store run natively, or the vCPU has loaded
another root. So a few repetitions are granted, and all that another task may have changed starts
the count anew, as does a fix-up that had to give up. A search finds such a loop as a livelock and
goes without this monitor; a single run cannot tell a livelock from a long way.
"""

from __future__ import annotations

from typing import NamedTuple

from vmm.engine.events import AuditPoint, Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.hw.access import AccessKind
from vmm.hw.events import Access, Invlpg, RegistersWritten
from vmm.mmu.api import EmulatedStore, EmulatedStoreDone, FaultRetried, GuestPageFault
from vmm.monitors import Oracle
from vmm.units import Gva
from vmm.vcpu.events import PageFaultExit, UserExit
from vmm.vcpu.vcpu import Vm

GRANTED = 3
"""Faults in a row: a store that is not emulated needs two, and one more may find a new root."""


class Faults(NamedTuple):
    """How often the last access of a task has faulted, on which root, with nothing in between."""

    task: int
    gva: Gva
    kind: AccessKind
    root: object
    times: int = 1


class GuestFaultLoop(Monitor):
    """The state is the accesses that have faulted and have not been made since, by task."""

    name = "guest/fault-loop"
    counts = True
    events = (
        PageFaultExit,
        Access,
        AuditPoint,
        EmulatedStore,
        EmulatedStoreDone,
        FaultRetried,
        GuestPageFault,
        Invlpg,
        RegistersWritten,
        UserExit,
    )

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    def initial(self) -> tuple[Faults, ...]:
        return ()

    def on_event(self, state: tuple[Faults, ...], event: Event, step: Step, view: View) -> Verdict:
        me = step.task.index
        if not state and event.__class__ is not PageFaultExit:
            return state, ()
        if isinstance(event, PageFaultExit):
            return self._faulted(state, event, me, view)
        if isinstance(event, AuditPoint):
            return _kept(state, [faults for faults in state if faults.task == me]), ()
        if _changes_memory(event):
            return (), ()
        return _kept(state, [faults for faults in state if faults.task != me]), ()

    def _faulted(
        self, state: tuple[Faults, ...], event: PageFaultExit, me: int, view: View
    ) -> Verdict:
        now = Faults(me, event.gva, event.kind, view[self.vm.vcpus[event.vcpu].root])
        before = next((faults for faults in state if faults.task == me), None)
        others_at_work = view[self.vm.mmu.lock] not in (0, me + 1)
        if before is not None and before[:4] == now[:4] and not others_at_work:
            now = now._replace(times=before.times + 1)
        if now.times > GRANTED:
            message = (
                f"vCPU {event.vcpu} faults on gva {event.gva:#x} for the {now.times}th time in a "
                "row, and nobody has done anything meanwhile"
            )
            return state, (SPEC.finding("guest/fault-loop", message),)
        return tuple(sorted((*(f for f in state if f.task != me), now))), ()


def _changes_memory(event: Event) -> bool:
    return isinstance(event, EmulatedStore) or (isinstance(event, Access) and event.write)


def _kept(state: tuple[Faults, ...], rest: list[Faults]) -> tuple[Faults, ...]:
    return state if len(rest) == len(state) else tuple(rest)


def _build(world: World, vm: Vm | None) -> GuestFaultLoop | None:
    del world
    return None if vm is None else GuestFaultLoop(vm)


SPEC = Oracle(
    title="an access that KVM has fixed up does not fault for ever",
    source="KVM 2e53d63acb (2008), a436036baf (2007); Intel SDM vol. 3, 4.10.4.1",
    rule="a page fault leads to an entry that permits the access, to emulation, or to the guest",
    build=_build,
)
