"""The shadow page cache: a bounded pool of pages, found by (gfn, role).

Source: KVM cea0f0e7ea (2007). Departs from it in form only: KVM hashes gfns into 256 buckets and
compares; here every gfn has a bucket of its own. The free pages are kept sorted, since KVM's slab
promises no order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import P, frame_of
from vmm.engine.cells import CellArray, Guard
from vmm.engine.ops import atomically, mark, wait_until
from vmm.engine.world import ModelObject, World
from vmm.hw.events import GiveBack, Take
from vmm.mmu.api import NO_PAGE, NO_ROOT, PoolExhausted, ShadowPageFreed, ShadowPageMade
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import Header, ShadowPage, make_spte_array
from vmm.units import Gfn, Gva, Numbers, table_index

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, Lock
    from vmm.mmu.api import Root

Bucket = tuple[tuple[Role, int], ...]


def _format_bucket(bucket: Bucket) -> str:
    return ", ".join(f"sp{number} {role}" for role, number in bucket) or "not shadowed"


class PageCache(ModelObject):
    """All shadow pages of a VM. Holds: mmu_lock, for everything but ``page_at``.

    ``mmu_valid_gen``: the generation of pages that may be used; None: all (it comes with the
    feature fast-zap).
    """

    mmu_valid_gen: Cell[int] | None = None
    lists_invalid = True
    """Whether zapped roots, while they are in use, stand in the active list."""

    def __init__(
        self,
        world: World,
        lock: Lock,
        capacity: int,
        *,
        page_class: type[ShadowPage] = ShadowPage,
    ) -> None:
        self.sptes = make_spte_array(world, lock, page_class.spte_guard)
        self.pages = tuple(page_class(world, n, lock, self.sptes) for n in range(capacity))
        self.free: Cell[Numbers] = world.cell(
            "free pages", tuple(range(capacity)), guard=Guard.FULL, lock=lock, observable=False
        )
        self.active: Cell[Numbers] = world.cell(
            "active pages", (), guard=Guard.FULL, lock=lock, observable=False
        )
        """Oldest first: KVM's list read from its tail."""
        self.buckets: CellArray[Gfn, Bucket] = world.array(
            "shadows",
            (),
            label=lambda gfn: f"shadows of gfn {gfn:#x}",
            guard=Guard.FULL,
            lock=lock,
            format=_format_bucket,
        )

    def page_at(self, pfn: int) -> ShadowPage:
        """The shadow page that lies in a host frame."""
        return self.pages[pfn - self.pages[0].pfn]

    async def leaf_page(self, root: Root, gva: Gva) -> ShadowPage | None:
        """The page of level 1 on the way from a root; None if that ends above. Holds: mmu_lock."""
        if root == NO_ROOT or root.page(gva) == NO_PAGE:
            return None
        page = self.pages[root.page(gva)]
        for level in range(root.level, 1, -1):
            spte = await page[table_index(gva, level)]
            if not spte & P:
                return None
            page = self.page_at(frame_of(spte))
        return page

    async def find(self, gfn: Gfn, role: Role) -> ShadowPage | None:
        """Look a shadow page up by its key."""
        for found, number in await self.shadows(gfn):
            if found == role:
                return self.pages[number]
        return None

    async def insert(self, gfn: Gfn, role: Role) -> ShadowPage:
        """Take a free page into the cache under a key.

        An empty pool is the end of a host thread that holds the lock (KVM: a null pointer).
        """
        free = await self.free
        if not free:
            await mark(PoolExhausted(gfn))
            (free,) = await wait_until(self.free, bool)
        page = self.pages[free[0]]
        await atomically(
            _insert,
            (self.free, self.active, self.buckets[gfn], page.header),
            page.number,
            Header(gfn, role),
            event=(Take(page.pfn), ShadowPageMade(page.number, gfn, role.direct)),
        )
        return page

    async def remove(self, page: ShadowPage, header: Header) -> None:
        """Give an empty page back to the pool."""
        await atomically(
            _remove,
            (self.free, self.active, self.buckets[header.gfn], page.header),
            page.number,
            header,
            event=(GiveBack(page.pfn), ShadowPageFreed(page.number, header.gfn)),
        )

    async def to_head(self, page: ShadowPage) -> None:
        """Make a page the youngest: what happens to a zapped page that is still a root."""
        await self.active.update(_to_head, page.number)

    async def is_shadowed(self, gfn: Gfn) -> bool:
        """Whether a guest table in this frame is shadowed, so must stay write-protected."""
        return any(role.has_gptes for role, _ in await self.shadows(gfn))

    async def shadows(self, gfn: Gfn) -> Bucket:
        """The shadow pages of a frame, for all who look them up by it."""
        return await self.buckets[gfn]


def _insert(
    free: Numbers,
    active: Numbers,
    bucket: Bucket,
    old: Header | None,
    number: int,
    header: Header,
) -> tuple[tuple[Numbers, Numbers, Bucket, Header], None]:
    del old
    bucket = tuple(sorted((*bucket, (header.role, number))))
    return (tuple(n for n in free if n != number), (*active, number), bucket, header), None


def _remove(
    free: Numbers,
    active: Numbers,
    bucket: Bucket,
    old: Header | None,
    number: int,
    header: Header,
) -> tuple[tuple[Numbers, Numbers, Bucket, None], None]:
    del old, header
    return (
        tuple(sorted((*free, number))),
        tuple(n for n in active if n != number),
        tuple(entry for entry in bucket if entry[1] != number),
        None,
    ), None


def _to_head(active: Numbers, number: int) -> tuple[Numbers, None]:
    return (*(n for n in active if n != number), number), None
