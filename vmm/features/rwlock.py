"""mmu_lock is a readers-writer lock: vCPUs without paging share it where they only give W back.

    vCPU 0 (no paging; writes table T)     vCPU 1 (no paging; writes table U)
    acquire mmu_lock, shared               acquire mmu_lock, shared
    its leaf of T: present, W = 0
    acquire mmu_unsync_pages_lock          waits
    T's shadow S: unsync := 1
    the page above S: unsync_children
    release mmu_unsync_pages_lock
    cmpxchg the leaf: W := 1               acquire mmu_unsync_pages_lock
                                           the same for U, whose shadow has the same page above
                                           release mmu_unsync_pages_lock
    release mmu_lock                       release mmu_lock
    stores: no trap

Who shares mmu_lock may change sptes by cmpxchg only, makes no page and frees none. What nobody
holds alone needs a lock of its own if it is more than one word: so do the marks of unsync pages,
which are read and stored, and go up to every root.

Whoever has mmu_lock alone needs no other lock. All else is done by holding it alone: mapping what
is not mapped yet, emulated stores, all faults of vCPUs that page.

Departs from KVM: faults of direct MMUs share the lock for all that they do, and build tables under
it, by cmpxchg, too; here they do so for what the shadowing of a table, or the dirty log, has
protected. KVM looks at ``unsync`` once before it takes mmu_unsync_pages_lock.

Source: KVM 531810caa9 (2021, 5.12, rwlock), ce25681d59ff (2021, 5.14, mmu_unsync_pages_lock);
Documentation/virt/kvm/locking.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmm.bits import P, W, frame_of
from vmm.engine.cells import Guard
from vmm.engine.ops import mark
from vmm.engine.rwlock import RwLock, make_rwlock
from vmm.features import Feature, unsync
from vmm.features.unsync import shadowing_of, unsync_page
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.paging import PagingMode
from vmm.mmu import fault, mmu, shadow_page
from vmm.mmu.api import FaultResult
from vmm.units import Gfn, Gva, table_index, with_number

if TYPE_CHECKING:
    from vmm.engine.cells import Lock
    from vmm.engine.world import World
    from vmm.mmu.api import VcpuState


class Leaf(NamedTuple):
    """A present leaf spte as it was read, and where."""

    page: int
    index: int  # type: ignore[assignment]  # hides tuple.index, of no use here
    spte: int


class ShadowMmu(mmu.ShadowMmu):
    """An MMU whose lock may be shared."""

    def __init__(self, world: World, *args: Any, **others: Any) -> None:
        super().__init__(world, *args, **others)
        self.unsync_lock = world.lock("mmu_unsync_pages_lock", inside=(self.lock,))
        for page in self.cache.pages:
            marked = unsync_page(page)
            marked.unsync.shared_with = self.marks_need
            marked.unsync_children.shared_with = self.marks_need

    def make_lock(self, world: World) -> RwLock:
        """Make mmu_lock."""
        return make_rwlock(world, self.lock_name, release_event=self.release_events)

    @property
    def shared_lock(self) -> RwLock:
        """mmu_lock, for those who share it."""
        assert isinstance(self.lock, RwLock)
        return self.lock

    @property
    def marks_need(self) -> tuple[Lock, ...]:
        """The locks under which unsync marks change while mmu_lock is shared."""
        return (self.unsync_lock,)


class ShadowPage(shadow_page.ShadowPage):
    """Its sptes change under a shared lock, too."""

    spte_guard = Guard.EXCHANGE

    async def exchange(self, index: int, old: int, new: int) -> int:
        """Change the bits of an spte by cmpxchg; gives what it replaced."""
        if not (old & P and new & P and frame_of(old) == frame_of(new)):
            return await super().exchange(index, old, new)
        return await self.xchg(index, old, new)


class Shadowing(unsync.Shadowing):
    """Marks unsync pages under a shared lock, too."""

    async def unsync_shared(self, gfn: Gfn) -> bool:
        """Let the guest write a table, if it may be out of sync; whether it may write.

        Holds: mmu_lock, shared.
        """
        await self.lock_marks()
        await self.unsync_frame(gfn)
        may_write = not await self.mmu.cache.is_shadowed(gfn)
        await self.unlock_marks()
        return may_write

    async def lock_marks(self) -> None:
        """From here on no other task changes unsync marks."""
        await rw_mmu(self.mmu).unsync_lock.acquire()

    async def unlock_marks(self) -> None:
        """Others may change them again."""
        await rw_mmu(self.mmu).unsync_lock.release()

    async def add_mark(self, parent: unsync.ShadowPage, index: int) -> bool:
        """Mark a link, by a read and a store; whether there was no mark before."""
        marks = await parent.unsync_children
        if index not in marks:
            await parent.unsync_children.set(with_number(marks, index))
        return not marks


class PageFault(fault.PageFault):
    """Shares the lock where that is enough."""

    async def page_fault(
        self, vcpu: VcpuState, gva: Gva, kind: AccessKind
    ) -> FaultResult | GuestFault:
        """A write that needs no more than W ends here."""
        registers = await vcpu.registers
        if kind.write and registers.controls.mode is PagingMode.NONE:
            lock = rw_mmu(self.mmu).shared_lock
            await lock.acquire_shared()
            fixed = await self.give_w_back(vcpu, gva)
            await lock.release_shared()
            if fixed:
                return FaultResult.RESUME
        return await super().page_fault(vcpu, gva, kind)

    async def give_w_back(self, vcpu: VcpuState, gva: Gva) -> bool:
        """Make a present leaf writable; whether it is. Holds: mmu_lock, shared."""
        leaf = await self.leaf_of(vcpu, gva)
        if leaf is None:
            return False
        shadowing = shadowing_of(self.mmu)
        assert isinstance(shadowing, Shadowing)
        if not await shadowing.unsync_shared(self.mmu.set_spte.gfn(leaf.spte)):
            return False
        page = self.mmu.cache.pages[leaf.page]
        await self.mmu.set_spte.replace(vcpu, page, leaf.index, leaf.spte | W)
        await mark("fixed under a shared lock")
        return True

    async def leaf_of(self, vcpu: VcpuState, gva: Gva) -> Leaf | None:
        """The present leaf of a translation. No page goes away while mmu_lock is shared."""
        page = await self.mmu.cache.leaf_page(await vcpu.root, gva)
        if page is None:
            return None
        index = table_index(gva, 1)
        spte = await page[index]
        return Leaf(page.number, index, spte) if spte & P else None


def rw_mmu(made: mmu.ShadowMmu) -> ShadowMmu:
    """The MMU of a machine with this feature."""
    assert isinstance(made, ShadowMmu)
    return made


SPEC = Feature(
    title="mmu_lock may be shared by faults that only give W back",
    source="KVM 531810caa9 (5.12), ce25681d59ff (5.14); locking.rst",
    since="5.12",
    eras=("5.15", "2026"),
    needs=("unsync",),
    locks={
        "mmu_lock": "shared while a direct leaf is given W",
        "mmu_unsync_pages_lock": "unsync marks, while mmu_lock is shared",
    },
)
