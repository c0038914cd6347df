"""Finding or making the shadow page of a guest table, and write-protecting the table.

The invariant of the series: a guest table that is shadowed is mapped writable nowhere, so that
every write to it traps.

    vCPU 0 (shadows table T)               vCPU 1 (maps T writable)
    acquire mmu_lock
    insert the shadow page of T
    clear W of every spte in rmap[T]
    request a flush from all vCPUs, IPI
                                           may still write T through its TLB
                                           exits; flushes before it enters again
    all acknowledged
    from here on a write to T traps

Source: KVM cea0f0e7ea, 374cbac033 (2007); d9e368d612 (2007, remote flush); 88a97f0b2f (2007, first
the spte, then the flush); caa5b8a5ed (2008, one flush for all).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import P, W
from vmm.engine.ops import mark
from vmm.engine.world import ModelObject
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import SpteRef
from vmm.units import Gfn

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import ShadowPage


class Shadowing(ModelObject):
    """Turns (gfn, role) into a shadow page. Holds: mmu_lock."""

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    async def get_page(self, me: VcpuState, gfn: Gfn, role: Role) -> ShadowPage:
        """The shadow page of (gfn, role): the cached one, else a new one, its table protected."""
        page = await self.mmu.cache.find(gfn, role)
        if page is None:
            page = await self.mmu.cache.insert(gfn, role)
            if not role.direct:
                await self.write_protect(me, gfn)
        return page

    async def write_protect(self, me: VcpuState, gfn: Gfn) -> None:
        """Take W away from every mapping of a frame, in the shadow and in every TLB."""
        lost = False
        for ref in await self.mmu.rmap.chains[gfn]:
            lost = await self.clear_writable(ref) or lost
        if lost:
            await mark("mapped table write-protected")
        if lost or await self.flush_owed():
            await self.flush_protected(me)

    async def clear_writable(self, ref: SpteRef) -> bool:
        """Take W away from one spte; the result says whether it had it."""
        page = self.mmu.cache.pages[ref.page]
        spte = await page[ref.index]
        if not (spte & P and spte & W):
            return False
        await page.set_spte(ref.index, spte & ~W)
        await self.mmu.set_spte.track_bits(spte, spte & ~W)
        return True

    async def flush_owed(self) -> bool:
        """Whether a TLB may hold what no spte maps any more (only with the feature flush-debt).

        Who looks for sptes of a frame and finds none must ask.
        """
        return False

    async def flush_protected(self, me: VcpuState) -> None:
        """No vCPU may use a writable translation of the frame from here on."""
        await self.mmu.flusher.flush_remote(me)
