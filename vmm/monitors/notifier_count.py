"""Audit: mmu_notifier_count counts invalidations that are under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.cells import Cell
from vmm.engine.monitor import Audit, Finding, View
from vmm.engine.world import World
from vmm.features.notifier_by_slot import Memslots
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any


class NotifierCount(Audit):
    """The number of all invalidations goes up before the count, and down after it."""

    name = "audit/notifier-count"

    def __init__(self, slots: Memslots) -> None:
        self.slots = slots

    def watched(self) -> tuple[Cell[Any], ...]:
        return (self.slots.count, self.slots.active)

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        count, active = view[self.slots.count], view[self.slots.active]
        if 0 <= count <= active:
            return ()
        message = (
            f"mmu_notifier_count is {count}, but {active} invalidations are under way: faults "
            "retry until it is 0"
        )
        cells = (self.slots.count.name, self.slots.active.name)
        return (SPEC.finding("audit/notifier-count", message, *cells),)

    def incremental(
        self, state: object, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del written
        return self.full(state, view)


def _build(world: World, vm: Vm | None) -> NotifierCount | None:
    del world
    if vm is None or not isinstance(vm.mmu.slots, Memslots):
        return None
    return NotifierCount(vm.mmu.slots)


SPEC = Oracle(
    title="the notifier's count is that of invalidations under way",
    source="KVM 52ac8b358b0c (5.15)",
    rule="every ++mmu_notifier_count of an invalidation's start has its -- at the end, and only it",
    build=_build,
)
