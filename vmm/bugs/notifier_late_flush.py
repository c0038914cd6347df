"""The notifier flushes after it has released mmu_lock.

host                                   vCPU 0                    vCPU 1
has frame g writable in its TLB
acquires mmu_lock; zaps the sptes of g; releases
shadows g, a new table:
nothing maps it, so
nothing is flushed
writes g: no trap
flushes: too late
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import notifier
from vmm.units import Gfn


class Host(notifier.Host):
    """Ages a page."""

    async def age(self, gfn: int) -> bool:
        """The fix flushes before the release."""
        mmu, young = self.vm.mmu, False
        async with mmu.lock:
            for ref in await mmu.rmap.chains[Gfn(gfn)]:
                page = mmu.cache.pages[ref.page]
                young = await mmu.zap.drop_spte(page, 1, ref.index) or young
        if young:
            await mmu.flusher.flush_remote(None)
        return young


SPEC = Bug(
    title="sptes are zapped under mmu_lock, but flushed after its release",
    year=2012,
    fix="565f3be21746",
    source="KVM 565f3be21746 (3.4)",
    caught_by=("audit/write-protection",),
    needs=("notifier",),
    seen="a guest that is being swapped runs on page tables that KVM does not follow",
)
