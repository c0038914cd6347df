"""The slots change between the start and the end of an invalidation.

    host thread N (unmaps frame g)         host thread M (changes the slots)
    start: g has a slot: ++count
                                           publishes the slots without that of g
    end: g has no slot: nothing to do
    vCPU 0 faults, for ever: count is 1

If the slot comes instead of going, the count falls below 0, which is not 0 either.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import memslots, notifier_by_slot
from vmm.features.memslots import Slots


class Host(notifier_by_slot.Host):
    """Publishes at any time."""

    async def publish(self, slots: Slots) -> None:
        """The fix waits until no invalidation is under way."""
        await memslots.Host.publish(self, slots)


SPEC = Bug(
    title="an invalidation counts at its start and not at its end, its slot being gone",
    year=2021,
    fix="52ac8b358b0c",
    source="KVM 52ac8b358b0c (5.15), which came before 071064f14d87, so no release had it",
    caught_by=("audit/notifier-count",),
    needs=("notifier-by-slot",),
    seen="vCPUs fault for ever",
)
