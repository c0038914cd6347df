"""A count of indirect shadow pages: while it is 0, emulated stores need no mmu_lock.

    vCPU 0 (emulates a store)              vCPU 1 (shadows the first table)
    store gpte = Y                         ++indirect_shadow_pages
    full barrier                           full barrier
    indirect_shadow_pages is 0?            read the gpte again: X?
      yes: there is no shadow to follow      yes: install the spte of X
      no: acquire mmu_lock, the shadow       no: retry
      follows

Each side stores, then loads what the other one stores; with a full barrier in between at least one
of them sees the other. Without, Y and the count may both wait in store buffers.

Stores are emulated without a shadowed table where nothing else can run the guest: here those of
vCPUs without paging, as on processors without unrestricted guests.

Departs from KVM, where the first indirect page may be made in the critical section that reads the
gpte again: here a root comes first, so that the release and the acquisition of mmu_lock order vCPU
1's steps anyway, and only the barrier of vCPU 0 matters.

Source: KVM "optimize pte write path if don't have protected sp" (2011; title and year recalled: a
doubt); 226d9b8f1688 (2024, 6.10: the barriers).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmm.engine.cells import Guard
from vmm.engine.ops import fence, mark
from vmm.features import Feature
from vmm.hw.access import AccessKind
from vmm.hw.memory import cut
from vmm.hw.paging import PagingMode
from vmm.mmu import page_cache, pte_write
from vmm.mmu.api import EmulatedStoreDone
from vmm.units import ENTRY_BYTES, Gfn, Gpa, word_of
from vmm.vcpu import guest

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, Lock
    from vmm.engine.world import World
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.role import Role
    from vmm.mmu.shadow_page import Header, ShadowPage
    from vmm.units import Gva


class PageCache(page_cache.PageCache):
    """Counts the pages that shadow tables. Written under mmu_lock, read without."""

    indirect_shadow_pages: Cell[int]

    def __init__(self, world: World, lock: Lock, capacity: int, **others: Any) -> None:
        super().__init__(world, lock, capacity, **others)
        self.indirect_shadow_pages = world.cell(
            "indirect_shadow_pages", 0, guard=Guard.WRITE, lock=lock, marked=True, observable=False
        )

    async def insert(self, gfn: Gfn, role: Role) -> ShadowPage:
        """As without the feature; counted, and to be seen before any gpte is read again."""
        page = await super().insert(gfn, role)
        if role.has_gptes:
            await self.count(1)
        return page

    async def remove(self, page: ShadowPage, header: Header) -> None:
        """As without the feature."""
        await super().remove(page, header)
        if header.role.has_gptes:
            await self.count(-1)

    async def count(self, change: int) -> None:
        """A full barrier as well."""
        pages = await self.indirect_shadow_pages
        await self.indirect_shadow_pages.set(pages + change, serialising=True)


class PteWrite(pte_write.PteWrite):
    """Leaves the lock alone if there is nothing to follow."""

    async def follow(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """Bring the shadow up to date, if there is one. Holds: nothing at the start."""
        if await self.may_be_shadowed():
            await super().follow(vcpu, gpa, value, size)
            return
        await mark("no shadow to follow")
        for part in cut(gpa, size, ENTRY_BYTES):
            await mark(EmulatedStoreDone(Gpa(word_of(part.address)), vcpu.number))

    async def may_be_shadowed(self) -> bool:
        """Whether any table is shadowed: asked once the store can be seen."""
        await fence()
        return await cache_of(self.mmu).indirect_shadow_pages != 0


class Guest(guest.Guest):
    """Is emulated while paging is off."""

    async def _store(
        self, gva: Gva, value: int, kind: AccessKind, size: int, *, emulated: bool = True
    ) -> guest.Refused | None:
        registers = await self.vcpu.registers
        if registers.controls.mode is not PagingMode.NONE or not emulated:
            return await super()._store(gva, value, kind, size, emulated=emulated)
        await self.vm.loop.leave(self.vcpu, "emulation")
        return await self.vm.mmu.emulator.store(self.vcpu, gva, value, size, kind)


def cache_of(mmu: ShadowMmu) -> PageCache:
    """The page cache of a machine with this feature."""
    assert isinstance(mmu.cache, PageCache)
    return mmu.cache


SPEC = Feature(
    title="emulated stores take mmu_lock only while tables are shadowed",
    source="KVM 226d9b8f1688 (6.10)",
    since="3.1",
    locks={"mmu_lock": "writes of indirect_shadow_pages; not held to read it"},
)
