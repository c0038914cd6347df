"""Two-phase zap: pages are prepared one by one, and given back together after one flush.

    vCPU 0 (zaps pages S and T)            pCPU 1 (walks through S or T)
    acquire mmu_lock
    prepare S: unlink, role.invalid := 1
    prepare T: unlink, role.invalid := 1
                                           may have read an entry that led there before
    commit: one flush, waits for pCPU 1    exits
    S and T go back to the pool
    release mmu_lock

Between the phases no lookup finds a prepared page, and nothing leads to it but what a processor
has read already. Roots in use are not committed: they wait for their last user, and the request to
reload makes every vCPU leave the guest as a flush does (``mmu-reload``).

Source: KVM 7775834a23 (2010, 2.6.36).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.features import Feature, mmu_reload
from vmm.features.mmu_reload import cache_of
from vmm.mmu import recycle
from vmm.mmu.shadow_page import Header, ShadowPage

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu

Prepared = tuple[tuple[ShadowPage, Header], ...]
"""Pages on their way out, with what they shadowed."""


class Zap(mmu_reload.Zap):
    """``zap_page`` and ``zap_pages`` in two phases. Holds: mmu_lock throughout."""

    async def zap_page(self, me: VcpuState | None, page: ShadowPage) -> None:
        """Empty a page and, unless it is a root in use, free it."""
        await self.commit(me, await self.prepare(me, page))

    async def zap_pages(self, me: VcpuState | None, numbers: tuple[int, ...]) -> None:
        """Zap several pages with one flush."""
        prepared: Prepared = ()
        for number in numbers:
            prepared += await self.prepare(me, self.mmu.cache.pages[number])
        await self.commit(me, prepared)

    async def prepare(self, me: VcpuState | None, page: ShadowPage) -> Prepared:
        """Take a page out of everybody's sight; empty for a root in use."""
        header = await self.unlink(page)
        if await page.root_count:
            await self.keep_root(me, page, header)
            return ()
        return ((page, await cache_of(self.mmu).invalidate(page, header)),)

    async def commit(self, me: VcpuState | None, prepared: Prepared) -> None:
        """Flush, then give the pages back."""
        if not prepared:
            return
        if len(prepared) > 1:
            await mark("several pages zapped with one flush")
        await self.flush_zapped(me)
        for page, header in prepared:
            await self.mmu.cache.remove(page, header)


class Recycle(recycle.Recycle):
    """Recycles with one flush."""

    async def free_some(self, me: VcpuState) -> None:
        """Zap the oldest pages if too few are free. Holds: mmu_lock."""
        free = len(await self.mmu.cache.free)
        if free >= self.min_free:
            return
        await mark("pages recycled")
        await zap_of(self.mmu).commit(me, await self.prepare_oldest(me, self.refill - free))

    async def prepare_oldest(self, me: VcpuState, wanted: int) -> Prepared:
        """Take so many of the oldest pages out of everybody's sight, as far as there are."""
        prepared: Prepared = ()
        for number in await self.mmu.cache.active:
            prepared += await zap_of(self.mmu).prepare(me, self.mmu.cache.pages[number])
            if len(prepared) >= wanted:
                break
        return prepared


def zap_of(mmu: ShadowMmu) -> Zap:
    """The zapper of a machine with this feature."""
    assert isinstance(mmu.zap, Zap)
    return mmu.zap


SPEC = Feature(
    title="zapped pages are prepared one by one and freed together after one flush",
    source="KVM 7775834a23 (2.6.36)",
    since="2.6.36",
    eras=("3.6", "5.15", "2026"),
    needs=("mmu-reload",),
    locks={"mmu_lock": "held from the first prepared page to the commit"},
)
