"""Invalid pages leave the list of active pages, and roots in use are not recycled.

    vCPU 0 (zaps root R, which vCPU 1 uses)    vCPU 1
    acquire mmu_lock
    empty R; R.role.invalid := 1
    take R off the active list
    MMU_RELOAD; IPI, wait for all              exits
    release mmu_lock
                                               takes MMU_RELOAD: frees its root R; being the last
                                               user, it gives R back: R is on no list

Who goes through the list then meets only pages that can be freed. In turn, whoever frees an invalid
page does not look for it on the list: no invalid page may ever be put there (see ``zapscape``).

Recycling passes over roots in use: it would gain no page, and cost their users a reload. It looks
for the oldest page afresh each time, as zapping a page may take others with it.

Source: KVM f95eec9bed76 and the series around it (2020, 5.9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import atomically
from vmm.features import Feature, mmu_reload, two_phase_zap
from vmm.features.two_phase_zap import Prepared, zap_of
from vmm.hw.events import GiveBack
from vmm.mmu.api import ShadowPageFreed, ShadowPageInvalid
from vmm.mmu.shadow_page import Header

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.page_cache import Bucket
    from vmm.mmu.role import Role
    from vmm.mmu.shadow_page import ShadowPage
    from vmm.units import Gfn, Numbers


class PageCache(mmu_reload.PageCache):
    """Lists valid pages only."""

    lists_invalid = False

    async def find(self, gfn: Gfn, role: Role) -> ShadowPage | None:
        """Nobody is looking for an invalid page."""
        return None if role.invalid else await super().find(gfn, role)

    async def invalidate(self, page: ShadowPage, header: Header) -> Header:
        """Set ``role.invalid`` and take the page off the list; nothing to do if it was invalid."""
        if header.role.invalid:
            return header
        invalid = Header(header.gfn, header.role._replace(invalid=True))
        await atomically(
            _invalidate,
            (self.active, self.buckets[header.gfn], page.header),
            page.number,
            invalid,
            event=ShadowPageInvalid(page.number, header.gfn),
        )
        return invalid

    async def to_head(self, page: ShadowPage) -> None:
        """A root in use becomes invalid: it has no place in the list."""

    async def remove(self, page: ShadowPage, header: Header) -> None:
        """Give an invalid page back to the pool. It is on no list."""
        await atomically(
            _remove,
            (self.free, self.buckets[header.gfn], page.header),
            page.number,
            event=(GiveBack(page.pfn), ShadowPageFreed(page.number, header.gfn)),
        )


class Zap(two_phase_zap.Zap):
    """Zaps what is listed."""

    async def zap_pages(self, me: VcpuState | None, numbers: tuple[int, ...]) -> None:
        """Zap several pages with one flush, but for those that went with others before them."""
        prepared: Prepared = ()
        for number in numbers:
            if number in await self.mmu.cache.active:
                prepared += await self.prepare(me, self.mmu.cache.pages[number])
        await self.commit(me, prepared)


class Recycle(two_phase_zap.Recycle):
    """Recycles what nobody runs on."""

    async def prepare_oldest(self, me: VcpuState, wanted: int) -> Prepared:
        """Take so many out of sight; what one zap takes with it is off the list for the next."""
        prepared: Prepared = ()
        while len(prepared) < wanted:
            oldest = await self.oldest_unused()
            if oldest is None:
                break
            prepared += await zap_of(self.mmu).prepare(me, oldest)
        return prepared

    async def oldest_unused(self) -> ShadowPage | None:
        """The oldest page that is no root in use."""
        for number in await self.mmu.cache.active:
            page = self.mmu.cache.pages[number]
            if not await page.root_count:
                return page
        return None


def _invalidate(
    active: Numbers, bucket: Bucket, old: Header | None, number: int, invalid: Header
) -> tuple[tuple[Numbers, Bucket, Header], None]:
    del old
    rest = [entry for entry in bucket if entry[1] != number]
    return (
        tuple([n for n in active if n != number]),
        tuple(sorted((*rest, (invalid.role, number)))),
        invalid,
    ), None


def _remove(
    free: Numbers, bucket: Bucket, old: Header | None, number: int
) -> tuple[tuple[Numbers, Bucket, None], None]:
    del old
    rest = tuple([entry for entry in bucket if entry[1] != number])
    return (tuple(sorted((*free, number))), rest, None), None


SPEC = Feature(
    title="invalid pages are on no list, and roots in use are not recycled",
    source="KVM f95eec9bed76 (5.9)",
    since="5.9",
    eras=("5.15", "2026"),
    needs=("two-phase-zap",),
    locks={"mmu_lock": "held when a page changes lists"},
)
