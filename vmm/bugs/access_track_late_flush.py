"""Pages are aged without a flush, as where processors set A bits.

vCPU 0                                 host
uses g: it is in the TLB
ages g: the spte is tracked; no flush
uses g through its TLB: nobody sees it
ages g: still tracked: old
g is swapped out, though in use
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import access_tracking
from vmm.units import Gfn


class Host(access_tracking.Host):
    """Leaves TLBs as they are."""

    async def age_sptes(self, gfn: Gfn) -> bool:
        """The right one flushes what it tracks."""
        used = False
        for ref in await self.vm.mmu.rmap.chains[gfn]:
            used = await self.track(ref) or used
        return used


SPEC = Bug(
    title="a TLB serves a page that was aged, so that its use is not seen",
    source="KVM 57128468080a (clear_flush_young flushes, clear_young need not); a mutant",
    caught_by=("accessed/lost",),
    needs=("access-tracking",),
)
