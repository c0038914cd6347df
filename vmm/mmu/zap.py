"""Zapping: emptying shadow pages and giving them back.

    vCPU 0 (zaps page S)                   pCPU 1 (walks through S)
    acquire mmu_lock
    clear every parent spte of S
                                           may have read a parent before: reads S
    clear every spte of S
    flush remote: waits for pCPU 1         the walk ends at the instruction's end; exits
    S goes back to the pool

A page that a vCPU uses as its root is emptied but stays in the cache, hence its table stays
write-protected; its children stay cached without a parent (2.6.25; MMU reload came in 2.6.26).

Source: KVM 697fe2e24a, cc4529efc7, 3bb65a22a4, 40907d5768 (2007).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import P, frame_of
from vmm.engine.ops import mark
from vmm.engine.world import ModelObject
from vmm.errors import InternalError
from vmm.mmu.shadow_page import SpteRef, remove_ref
from vmm.units import Gfn

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import Header, ShadowPage


class Zap(ModelObject):
    """Zaps sptes, pages, and all pages of a frame. Holds: mmu_lock."""

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    async def zap_page(self, me: VcpuState | None, page: ShadowPage) -> None:
        """Empty a page and, unless it is a root in use, free it."""
        header = await self.unlink(page)
        await self.flush_zapped(me)
        if await page.root_count:
            await self.keep_root(me, page, header)
        else:
            await self.mmu.cache.remove(page, header)

    async def zap_pages(self, me: VcpuState | None, numbers: tuple[int, ...]) -> None:
        """Zap several pages, one after the other."""
        for number in numbers:
            await self.zap_page(me, self.mmu.cache.pages[number])

    async def unlink(self, page: ShadowPage) -> Header:
        """Clear all sptes to the page and in it; gives what it shadows."""
        header = await page.header
        if header is None:
            raise InternalError(f"sp{page.number} is zapped although it is free")
        await self.unlink_parents(page)
        await self.unlink_children(page, header)
        return header

    async def keep_root(self, me: VcpuState | None, page: ShadowPage, header: Header) -> None:
        """A root in use stays in the cache, empty, and becomes the youngest page."""
        await mark("root in use zapped")
        await self.mmu.cache.to_head(page)

    async def unlink_parents(self, page: ShadowPage) -> None:
        """Clear every spte that points to the page."""
        for ref in await page.parents:
            await self.mmu.cache.pages[ref.page].set_spte(ref.index, 0)
        await page.parents.set(())

    async def unlink_children(self, page: ShadowPage, header: Header) -> None:
        """Clear every spte of the page. Children are not zapped: they stay cached."""
        for index in await page.present:
            await self.drop_spte(page, header.role.level, index)

    async def drop_spte(self, page: ShadowPage, level: int, index: int) -> bool:
        """Clear one spte with what depends on it: an rmap entry or a child's parent link.

        Flushes nothing: that is left to the caller. The result says whether it was present.
        """
        spte = await page[index]
        if not spte & P:
            return False
        ref = SpteRef(page.number, index)
        if level == 1:
            await self.mmu.rmap.remove(self.mmu.set_spte.gfn(spte), ref)
            await self.mmu.set_spte.track_bits(await page.exchange(index, spte, 0), 0)
        else:
            await self.mmu.cache.page_at(frame_of(spte)).parents.update(remove_ref, ref)
            await page.set_spte(index, 0)
        return True

    async def flush_zapped(self, me: VcpuState | None) -> None:
        """No walk and no TLB may come through the zapped page from here on."""
        await self.mmu.flusher.flush_remote(me)

    async def zap_gfn(self, me: VcpuState | None, gfn: Gfn) -> bool:
        """Zap every shadow of a guest table ("unprotect"); whether the frame is writable again.

        2.6.25 said yes as soon as it had zapped anything, also a root that stays (fixed 2.6.26).
        Source: KVM a436036baf, 143646567f (2007).
        """
        shadows = await self.mmu.cache.shadows(gfn)
        await self.zap_pages(me, tuple([number for role, number in shadows if role.has_gptes]))
        return not await self.mmu.cache.is_shadowed(gfn)

    async def zap_all(self, me: VcpuState | None) -> None:
        """Zap every shadow page. Source: KVM e0fa826f96 (2007)."""
        await self.zap_pages(me, await self.mmu.cache.active)

    async def zap_leaves(self, me: VcpuState | None, gfn: Gfn) -> bool:
        """Unmap a guest frame everywhere, flushed before the lock is released; whether it was."""
        zapped = await self.drop_leaves(gfn)
        if zapped or await self.mmu.shadowing.flush_owed():
            await self.flush_zapped(me)
        return zapped

    async def drop_leaves(self, gfn: Gfn) -> bool:
        """Drop every spte of a guest frame, without a flush; whether there was one."""
        dropped = False
        for ref in await self.mmu.rmap.chains[gfn]:
            dropped = await self.drop_spte(self.mmu.cache.pages[ref.page], 1, ref.index) or dropped
        return dropped
