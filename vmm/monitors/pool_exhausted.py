"""Whoever needs a shadow page finds one: recycling has seen to it."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.mmu.api import PoolExhausted
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm


class PoolNeverEmpty(Monitor):
    """An empty pool is met under mmu_lock, where nothing can be done about it any more."""

    name = "pool/exhausted"
    events = (PoolExhausted,)

    def __init__(self, vm: Vm) -> None:
        self.free = vm.mmu.cache.free

    def on_event(self, state: None, event: Event, step: Step, view: View) -> Verdict:
        del view
        assert isinstance(event, PoolExhausted)
        message = f"{step.task.name} needs a shadow page for gfn {event.gfn:#x}, but none is free"
        return state, (SPEC.finding("pool/exhausted", message, self.free.name),)


def _build(world: World, vm: Vm | None) -> PoolNeverEmpty | None:
    del world
    return None if vm is None else PoolNeverEmpty(vm)


SPEC = Oracle(
    title="no fault and no root load finds the pool of shadow pages empty",
    source="KVM ebeace8609 (2007); 22d95b1282 (2007); eb787d10af (2008)",
    rule="enough pages are free before the first one is taken, in the same critical section",
    build=_build,
)
