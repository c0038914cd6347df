"""The page fault of shadow paging.

The guest walk runs without the lock, so what it read may be old by the time the lock is held. After
a table has been shadowed, hence write-protected, its gpte is read again; if it differs, nothing is
installed and the guest runs into the fault once more.

    vCPU 0 (faults)                        vCPU 1
    walk: gpte = X
                                           store gpte = Y (not shadowed yet: no trap)
    acquire mmu_lock
    shadow the table, write-protect it
    read gpte again: Y, not X
    release mmu_lock, retry

Source: KVM 10589a4699, aaee2c94f7, 7819026eef, f7d9c7b7b902 (2008). Departs from 2.6.25, which
re-read only the gptes of tables that it had just linked: here every level is read again, as since
2.6.36. A child is reused only if its gfn and role match, as since 2026 (0cb2af2ea66a,
81ccda30b4e8). The parent link is recorded with the link itself, not before the re-read, so there is
nothing to undo (6c475352e87).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import NX, P, U, W, frame_of
from vmm.engine.ops import mark
from vmm.engine.world import ModelObject
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.memory import part_of
from vmm.mmu.api import FaultResult, FaultRetried, GuestPageFault, LastPtWrite
from vmm.mmu.guest_walk import GuestWalk
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import SpteRef, add_ref
from vmm.mmu.spte import make_link
from vmm.units import Gfn, Gva, Pfn, table_index

if TYPE_CHECKING:
    from vmm.engine.events import EventSpec
    from vmm.mmu.api import VcpuState
    from vmm.mmu.memslots import HostPage
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import ShadowPage

NO_PT_WRITE = LastPtWrite(0, 0)


class PageFault(ModelObject):
    """Handles a page fault that made a vCPU exit. Holds: nothing at the start."""

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    async def page_fault(
        self, vcpu: VcpuState, gva: Gva, kind: AccessKind
    ) -> FaultResult | GuestFault:
        """Fix the shadow for one access, or say what else must happen."""
        walk = await self.mmu.walker.walk(vcpu, gva, kind)
        if isinstance(walk, GuestFault):
            await self.reset_flood_detector(vcpu, event=GuestPageFault(vcpu.number, gva))
            return walk
        page = await self.mmu.slots.pin(walk.gfn)
        result = await self.map_locked(vcpu, walk, page, kind)
        await self.mmu.slots.unpin(page)
        if result is FaultResult.RESUME:
            await self.reset_flood_detector(vcpu)
        return result

    async def map_locked(
        self, vcpu: VcpuState, walk: GuestWalk, page: HostPage, kind: AccessKind
    ) -> FaultResult:
        """Map what was resolved. Holds: nothing at the start."""
        async with self.mmu.lock:
            return await self.map(vcpu, walk, page, kind)

    async def map(
        self, vcpu: VcpuState, walk: GuestWalk, page: HostPage, kind: AccessKind
    ) -> FaultResult:
        """What is done under the lock."""
        if not await self.mmu.slots.still_holds(page):
            await mark(FaultRetried("host page changed under a fault"))
            return FaultResult.RESUME
        await self.mmu.recycle.free_some(vcpu)
        return await self.fetch(vcpu, walk, page.pfn, kind)

    async def reset_flood_detector(self, vcpu: VcpuState, *, event: EventSpec = None) -> None:
        """Demand paging is no fork: forget the last table write. Source: KVM a25f7e1f8c."""
        if await vcpu.last_pt_write.read(event=event) != NO_PT_WRITE:
            await vcpu.last_pt_write.set(NO_PT_WRITE)

    async def fetch(
        self, vcpu: VcpuState, walk: GuestWalk, pfn: Pfn, kind: AccessKind
    ) -> FaultResult:
        """Descend the shadow from the root, making what is missing, and install the leaf."""
        root = await vcpu.root
        page: ShadowPage | None = self.mmu.cache.pages[root.page(walk.gva)]
        unchanged = await self.gpte_unchanged(walk, root.level)
        for level in range(root.level, 1, -1):
            if not unchanged or page is None:
                break
            page, unchanged = await self.descend(vcpu, page, walk, level)
        if not unchanged or page is None:
            await mark(FaultRetried("fault retried"))
            return FaultResult.RESUME
        return await self.install_leaf(vcpu, page, walk, pfn, kind)

    async def descend(
        self, vcpu: VcpuState, page: ShadowPage, walk: GuestWalk, level: int
    ) -> tuple[ShadowPage, bool]:
        """The shadow page one level down, linked; and whether the gpte in its table still holds."""
        index = table_index(walk.gva, level)
        gfn, role = await self.child_key(page, walk, level - 1)
        spte = await page[index]
        if spte & P:
            child = self.mmu.cache.page_at(frame_of(spte))
            if await self.child_matches(child, gfn, role):
                return child, await self.gpte_unchanged(walk, level - 1)
            await mark("wrong child dropped")
            await self.mmu.zap.drop_spte(page, level, index)
            await self.mmu.zap.flush_zapped(vcpu)
        child = await self.mmu.shadowing.get_page(vcpu, gfn, role)
        unchanged = await self.gpte_unchanged(walk, level - 1)
        if unchanged:
            await self.link(vcpu, page, index, child)
        return child, unchanged

    async def child_key(self, page: ShadowPage, walk: GuestWalk, level: int) -> tuple[Gfn, Role]:
        """What the child of ``page`` on the way shadows: one of ``level``."""
        return walk.shadow_key(level)

    async def link(self, vcpu: VcpuState, page: ShadowPage, index: int, child: ShadowPage) -> None:
        """Record the parent, then store the link."""
        await child.parents.update(add_ref, SpteRef(page.number, index))
        await page.set_spte(index, make_link(child.pfn))

    async def child_matches(self, child: ShadowPage, gfn: Gfn, role: Role) -> bool:
        """Whether a linked child shadows what the walk found."""
        return await child.header == (gfn, role)

    async def gpte_unchanged(self, walk: GuestWalk, level: int) -> bool:
        """Whether a gpte is still what the walk read; its table is protected by now."""
        step = walk.at(level)
        if step is None:
            return True
        word = await self.mmu.memory.word(step.gpa)
        return part_of(word, step.gpa, walk.root.gpte_bytes) == step.entry

    async def install_leaf(
        self, vcpu: VcpuState, page: ShadowPage, walk: GuestWalk, pfn: Pfn, kind: AccessKind
    ) -> FaultResult:
        """Map the page; a write to a shadowed table is left to the emulator."""
        rights = walk.access
        if kind.write and not rights & W:
            # Guest CR0.WP is clear and the supervisor writes: W for it, and the user kept out. What
            # was the user's looks like the supervisor's now, so SMEP must be minded by NX.
            rights = (rights | W) & ~U | (NX if walk.root.smep_andnot_wp else 0)
        shadowed = await self.mmu.set_spte.install(
            vcpu,
            page,
            table_index(walk.gva, 1),
            pfn=pfn,
            rights=rights,
            dirty=walk.dirty,
        )
        if not (shadowed and kind.write):
            return FaultResult.RESUME
        if kind.user and not walk.passes(walk.gfn) and await self.mmu.zap.zap_gfn(vcpu, walk.gfn):
            # A user-mode write: the frame is no page table any more. KVM 143646567f.
            # But a table that leads to itself would be shadowed again by the very next fault.
            return FaultResult.RESUME
        return FaultResult.EMULATE
