"""A fault compares the sequence, but does not ask whether an invalidation is under way.

vCPU 0                                 host
start: zaps the range, flushes
reads the sequence; resolves frame g: P, which is not taken yet
acquires mmu_lock; the sequence is the same; installs the spte of P
frees P
uses P                                 end
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import notifier
from vmm.mmu.memslots import HostPage


class Memslots(notifier.Memslots):
    """Half of the check."""

    async def still_holds(self, page: HostPage) -> bool:
        """The fix asks too whether an invalidation is open."""
        return await self.sequence == page.sequence


SPEC = Bug(
    title="a fault maps a page of a range whose invalidation is under way",
    source="a mutant; KVM e930bffe95e1 (2.6.27) has a count beside the sequence",
    caught_by=("isolation/page-given-back",),
    needs=("notifier",),
    points=("S45",),
)
