"""Fast zap: all shadow pages become obsolete at once, and are zapped in batches.

    host (zaps all)                        vCPU 0 (runs on root R)
    acquire mmu_lock
    mmu_valid_gen := 1; R is of 0: obsolete
    set MMU_RELOAD in every requests word
    IPI, wait for all                      exits
    zap some obsolete pages
    flush, wait; they go back to the pool
    release mmu_lock (the lock break)
                                           frees R; loads the root of cr3: the lookup skips R
                                           faults: new pages, of generation 1
    acquire mmu_lock
    zap more, the oldest first, until the
    oldest is of generation 1
    release mmu_lock

A page belongs to the generation in which it was made. Every lookup skips those of an older one, so
their tables need no write protection any more, and nobody runs on them since all vCPUs were asked
to reload. What vCPUs build meanwhile is none of the zapper's business: so it comes to an end, which
zapping until no page is left need not, while vCPUs fault (zap-all-livelock).

The list of pages is looked at afresh after each lock break, since others zap, too. No vCPU runs on
obsolete pages, so no TLB needs the flush before they are freed; a vCPU that has not reloaded yet
may still read them without the lock (``lockless-walk``), and the flush waits for it.

Departs from KVM: the lock is always released after a batch, not only when somebody waits for it;
each batch is flushed for, as at first (f34d251d66ba put it off to the end). The generation counts
up, as at first (since 5.4 it is one bit, for which zaps of all must come one at a time).

Source: KVM 5304b8d37c, f34d251d66ba (2013, 3.11); removed by ea145aacf4 and restored by 92f58b5c01
(2019).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.cells import Guard
from vmm.engine.ops import mark
from vmm.features import Feature, two_phase_zap
from vmm.features.lock_break import break_lock
from vmm.features.mmu_reload import flusher_of
from vmm.mmu import page_cache, shadow_page
from vmm.mmu.api import ShadowPageInvalid

if TYPE_CHECKING:
    from typing import Any

    from vmm.engine.cells import Cell, CellArray, Lock
    from vmm.engine.world import World
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.page_cache import Bucket
    from vmm.mmu.role import Role
    from vmm.mmu.shadow_page import SpteRef
    from vmm.units import Gfn

BATCH_ZAP_PAGES = 2
"""Pages that are zapped without a lock break. KVM: 10."""


class ShadowPage(shadow_page.ShadowPage):
    """Knows the generation it was made in."""

    mmu_valid_gen: Cell[int]

    def __init__(
        self, world: World, number: int, lock: Lock, sptes: CellArray[SpteRef, int]
    ) -> None:
        super().__init__(world, number, lock, sptes)
        self.mmu_valid_gen = world.cell(
            f"sp{number} mmu_valid_gen", 0, guard=Guard.FULL, lock=lock, observable=False
        )


class PageCache(page_cache.PageCache):
    """Pages of several generations, of which lookups find the last."""

    mmu_valid_gen: Cell[int]

    def __init__(self, world: World, lock: Lock, capacity: int, **others: Any) -> None:
        super().__init__(world, lock, capacity, **others)
        self.mmu_valid_gen = world.cell(
            "mmu_valid_gen", 0, guard=Guard.FULL, lock=lock, observable=False
        )

    async def insert(self, gfn: Gfn, role: Role) -> shadow_page.ShadowPage:
        """As without the feature; the page is of the present generation."""
        page = await super().insert(gfn, role)
        await self._generation(page).set(await self.mmu_valid_gen)
        return page

    async def shadows(self, gfn: Gfn) -> Bucket:
        """The pages of a frame that are not obsolete."""
        found: Bucket = ()
        for entry in await super().shadows(gfn):
            if not await self.is_obsolete(self.pages[entry[1]]):
                found = (*found, entry)
        return found

    async def is_obsolete(self, page: shadow_page.ShadowPage) -> bool:
        """Whether a page was made before all pages were last zapped."""
        return await self._generation(page) != await self.mmu_valid_gen

    async def new_generation(self) -> None:
        """Make all pages obsolete."""
        events = []
        for number in await self.active:
            header = await self.pages[number].header
            if header is not None and not header.role.invalid:
                events.append(ShadowPageInvalid(number, header.gfn))
        await self.mmu_valid_gen.update(_next, event=tuple(events))

    async def obsolete(self) -> tuple[int, ...]:
        """The pages still to be zapped, oldest first.

        New pages are the youngest, so the first that is not obsolete ends the search. Invalid ones
        are zapped by their last users.
        """
        found: tuple[int, ...] = ()
        for number in await self.active:
            page = self.pages[number]
            if not await self.is_obsolete(page):
                break
            header = await page.header
            if header is not None and not header.role.invalid:
                found = (*found, number)
        return found

    def _generation(self, page: shadow_page.ShadowPage) -> Cell[int]:
        assert isinstance(page, ShadowPage)
        return page.mmu_valid_gen


class Zap(two_phase_zap.Zap):
    """Zaps all in batches."""

    async def zap_all(self, me: VcpuState | None) -> None:
        """Zap every page that there is when it begins. Holds: mmu_lock, not throughout."""
        await cache_of(self.mmu).new_generation()
        await flusher_of(self.mmu).reload_remote(me)
        await self.zap_obsolete(me)

    async def zap_obsolete(self, me: VcpuState | None) -> None:
        """Zap obsolete pages, with a lock break after each batch."""
        left = await self.pages_to_zap()
        while left:
            await self.zap_batch(me, left[:BATCH_ZAP_PAGES])
            if len(left) > BATCH_ZAP_PAGES:
                await break_lock(self.mmu)
                await mark("lock released between batches")
            left = await self.pages_to_zap()

    async def pages_to_zap(self) -> tuple[int, ...]:
        """What is still to be done: looked up again after each lock break."""
        return await cache_of(self.mmu).obsolete()

    async def zap_batch(self, me: VcpuState | None, numbers: tuple[int, ...]) -> None:
        """Zap some pages: nothing of them is left to others when the lock is released."""
        await self.zap_pages(me, numbers)

    async def reload_users(self, me: VcpuState | None, page: shadow_page.ShadowPage) -> None:
        """Who uses an obsolete root has been asked already."""
        if not await cache_of(self.mmu).is_obsolete(page):
            await super().reload_users(me, page)


def cache_of(mmu: ShadowMmu) -> PageCache:
    """The page cache of a machine with this feature."""
    assert isinstance(mmu.cache, PageCache)
    return mmu.cache


def _next(generation: int) -> tuple[int, None]:
    return generation + 1, None


SPEC = Feature(
    title="all pages are zapped by a new generation, and freed in batches with lock breaks",
    source="KVM 5304b8d37c, f34d251d66ba (3.11), 92f58b5c01 (5.4)",
    since="3.11",
    eras=("5.15", "2026"),
    needs=("two-phase-zap",),
    locks={"mmu_lock": "mmu_valid_gen, of the VM and of each page; released between batches"},
)
