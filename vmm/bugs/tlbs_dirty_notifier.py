"""The notifier finds no spte of a page and flushes nothing, although a TLB still maps the page.

vCPU 0                                 host thread                vCPU 1
                                                                  has frame g in its TLB
changes the gpte of g, loads cr3
sync: drops the spte of g; no flush
                                       takes the host page of g:
                                       nothing in rmap[g]
                                       gives the page back
                                                                  reads g: somebody else's
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.mmu import zap
from vmm.units import Gfn

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class Zap(zap.Zap):
    """Flushes for what it zaps itself."""

    async def zap_leaves(self, me: VcpuState | None, gfn: Gfn) -> bool:
        """The fix flushes if anything is owed, too."""
        zapped = False
        for ref in await self.mmu.rmap.chains[gfn]:
            page = self.mmu.cache.pages[ref.page]
            zapped = await self.drop_spte(page, 1, ref.index) or zapped
        if zapped:
            await self.flush_zapped(me)
        return zapped


SPEC = Bug(
    title="the notifier does not know of sptes that a sync dropped without a flush",
    year=2010,
    fix="a4ee1ca4a36e",
    source="KVM a4ee1ca4a36e (2.6.38)",
    caught_by=("isolation/page-given-back",),
    needs=("flush-debt", "notifier"),
    seen="a guest reads and writes memory of others on a host that swaps",
)
