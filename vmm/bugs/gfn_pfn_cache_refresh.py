"""What KVM keeps of a frame is marked valid although an invalidation came in between.

    vCPU 0 (its hypercall: KVM stores)     host thread (unmaps frame g)
                                           start: the cache is not valid anyway
    s = mmu_notifier_seq; g lies in P
    seq is s, and nobody has counted yet:
    valid, P
                                           acquires mmu_lock; ++count; zaps, flushes
                                           frees P
    stores to P, which is somebody else's
                                           end: ++seq

KVM looked at mmu_notifier_count too, but that goes up only after the cache was invalidated; here it
is left out, as it may be read under mmu_lock alone.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import gfn_pfn_cache
from vmm.mmu.memslots import HostPage


class Memslots(gfn_pfn_cache.Memslots):
    """Half of the check."""

    async def must_retry(self, page: HostPage) -> bool:
        """The fix asks whether an invalidation has begun."""
        return await self.sequence != page.sequence


SPEC = Bug(
    title="KVM keeps a host page whose invalidation has begun",
    year=2022,
    fix="58cd407ca4c6",
    source="KVM 58cd407ca4c6, 93984f19e7bc (5.19)",
    caught_by=("isolation/page-given-back",),
    needs=("gfn-pfn-cache",),
    seen="KVM writes to memory of other processes",
)
