"""Unsync pages: tables of level 1 are written natively, and their shadows are old until a flush.

A guest that changes its tables without telling the processor may use old translations until it
invalidates them. So the shadow need not follow each store to a table; it is enough that it follows
when the guest invalidates.

    vCPU 0 (writes table T, level 1)       vCPU 1 (uses T)
    faults: T is write-protected
    acquire mmu_lock
    T's shadow S: unsync := 1
    the pages above S: unsync_children
    map T writable; release
    store gpte: no trap                    may still use what S said
    ...
                                           INVLPG, MOV CR3, or a page fault of its own: exits
                                           acquire mmu_lock
                                           INVLPG: drop the one spte; flush
                                           MOV CR3, for each unsync page below the root:
                                             S: unsync := 0
                                             write-protect T; flush, wait
                                             read T's gptes; drop or change the sptes of S; flush
                                           release mmu_lock

The mark comes before the spte that lets the guest write (578e1c4db221): who wrote and then loads
cr3 must find the mark, and looks for it without the lock. The mark is cleared before T's gptes are
read (0c0f40bdbe4), or a gpte that maps T itself would be mapped writable again.

An entry that was not present needs no invalidation to be used. So whatever such an entry may lead
to is synced before the link is made (65855ed8b034): an unsync page by its lookup, the pages below a
table of a higher level then. The same lookup sees to it that a table which is used at a higher
level too is protected again; tables of higher levels are never unsync.

Departs from KVM: only a write fault unsyncs a table. A page left empty by its sync stays. Each page
is synced with a flush of its own, and the lock is not released in between. The pages below a zapped
page stay unsync in the cache, to be synced by the lookup that finds them. What sync drops is
flushed at once (f81602958c11, 2021), as INVLPG does (4539b35881, 2009). After a guest page fault
the spte of its address is dropped whether or not the fault says "present" (SDM 4.10.4.1; KVM
ee1fa209f5, 2020, for present ones).

Source: KVM 4731d4c7a0, 0074ff63eb, a7052897b3 (2008, 2.6.28); 0c0f40bdbe4 (2008); 578e1c4db221
(2018); 65855ed8b034 (2021).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import D, P, combine, frame_of
from vmm.engine.cells import Guard
from vmm.engine.events import Goal
from vmm.features import Feature, mmu_reload
from vmm.features.mmu_reload import take_request
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.events import Invlpg
from vmm.hw.memory import part_of
from vmm.mmu import fault, page_cache, roots, shadow_page, shadowing, zap
from vmm.mmu.api import NO_PAGE, FaultResult, Root, ShadowPageSynced, ShadowPageUnsync
from vmm.mmu.guest_walk import GuestWalk
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import Header, SpteRef
from vmm.units import Gfn, Gva, Numbers, Pfn, table_index, with_number, without_number
from vmm.vcpu import flush
from vmm.vcpu.requests import MMU_SYNC

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, CellArray, Lock
    from vmm.engine.events import Event, EventSpec
    from vmm.engine.world import World
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.vcpu.vcpu import Vcpu


class ShadowPage(shadow_page.ShadowPage):
    """A page that may be out of sync, or lead to such pages.

    ``unsync_children``: the indexes of links below which there may be unsync pages, none missing. A
    vCPU looks at those of its root without the lock.
    """

    unsync: Cell[bool]

    def __init__(
        self, world: World, number: int, lock: Lock, sptes: CellArray[SpteRef, int]
    ) -> None:
        super().__init__(world, number, lock, sptes)
        self.unsync = world.cell(f"sp{number} unsync", False, guard=Guard.FULL, lock=lock)
        self.unsync_children: Cell[Numbers] = world.cell(
            f"sp{number} unsync children", (), guard=Guard.WRITE, lock=lock, marked=True
        )


class PageCache(page_cache.PageCache):
    """Knows that a table whose shadows are all unsync may be written."""

    async def is_shadowed(self, gfn: Gfn) -> bool:
        """Whether a page that is in sync shadows a table in this frame."""
        for role, number in await self.shadows(gfn):
            if role.has_gptes and not await unsync_page(self.pages[number]).unsync:
                return True
        return False


class Shadowing(shadowing.Shadowing):
    """Lets tables go out of sync, and brings them back. Holds: mmu_lock, but for ``invlpg``."""

    # --- out of sync ---

    async def unsync_frame(self, gfn: Gfn) -> None:
        """Let the guest write a table, if it is shadowed as one of level 1 only."""
        shadows = [(role, n) for role, n in await self.mmu.cache.shadows(gfn) if role.has_gptes]
        if any(role.level > 1 for role, _ in shadows):
            return
        for _, number in shadows:
            page = unsync_page(self.mmu.cache.pages[number])
            if not await page.unsync:
                await self.mark_unsync(page, gfn)

    async def mark_unsync(self, page: ShadowPage, gfn: Gfn) -> None:
        """Mark a page, and the way to it from every root."""
        event = (ShadowPageUnsync(page.number, gfn), Goal("table left out of sync"))
        await page.unsync.set(True, event=event)
        await self.mark_parents(page)

    async def mark_parents(self, page: shadow_page.ShadowPage) -> None:
        """Mark the links to a page; where there was a mark already, all above is marked too."""
        for ref in await page.parents:
            parent = unsync_page(self.mmu.cache.pages[ref.page])
            if await self.add_mark(parent, ref.index):
                await self.mark_parents(parent)

    async def add_mark(self, parent: ShadowPage, index: int) -> bool:
        """Mark a link of a page; whether the page had no mark before."""
        return await parent.unsync_children.update(_add_index, index)

    # --- back in sync ---

    async def get_page(self, me: VcpuState, gfn: Gfn, role: Role) -> shadow_page.ShadowPage:
        """As without the feature; all pages of the frame are in sync from here on."""
        if not role.direct:
            await self.sync_frame(me, gfn)
        return await super().get_page(me, gfn, role)

    async def sync_frame(self, me: VcpuState, gfn: Gfn) -> None:
        """Sync every page of a table."""
        for role, number in await self.mmu.cache.shadows(gfn):
            page = unsync_page(self.mmu.cache.pages[number])
            if role.has_gptes and await page.unsync:
                await self.sync_page(me, page, Header(gfn, role))

    async def sync_children(self, me: VcpuState, page: shadow_page.ShadowPage) -> None:
        """Sync what lies below a page; a mark goes once all below it is in sync."""
        marks = unsync_page(page).unsync_children
        for index in await marks:
            spte = await page[index]
            if spte & P:
                await self.sync_below(me, unsync_page(self.mmu.cache.page_at(frame_of(spte))))
            await marks.update(_remove_index, index)

    async def sync_below(self, me: VcpuState, page: ShadowPage) -> None:
        """Sync a page, or what lies below it."""
        if not await page.unsync:
            await self.sync_children(me, page)
            return
        header = await page.header
        assert header is not None
        await self.sync_page(me, page, header)

    async def sync_page(self, me: VcpuState, page: ShadowPage, header: Header) -> None:
        """Protect the table, then let the page follow it: in this order."""
        await self.clear_unsync(page, header.gfn)
        await self.write_protect(me, header.gfn)
        await self.follow_gptes(me, page, header)

    async def clear_unsync(self, page: ShadowPage, gfn: Gfn) -> None:
        """From the release of the lock on the table is protected."""
        event = (ShadowPageSynced(page.number, gfn), Goal("table synced"))
        await page.unsync.set(False, event=event)

    async def follow_gptes(self, me: VcpuState, page: ShadowPage, header: Header) -> None:
        """Drop or change every spte that its gpte no longer allows."""
        dropped = False
        for index in await page.present:
            dropped = await self.follow_gpte(me, page, header, index) or dropped
        if dropped:
            await self.flush_dropped(me)

    async def follow_gpte(
        self, me: VcpuState, page: ShadowPage, header: Header, index: int
    ) -> bool:
        """Bring one spte up to date; whether it was dropped. Another frame is left to a fault."""
        mmu, role = self.mmu, header.role
        spte = await page[index]
        if not spte & P:
            return await mmu.zap.drop_spte(page, 1, index)
        gpa = role.gpte_of(header.gfn, index)
        gpte = part_of(await mmu.memory.word(gpa), gpa, role.gpte_bytes)
        same = mmu.set_spte.gfn(spte) == frame_of(gpte)
        if not (same and mmu.pte_write.is_mappable(role, gpte)):
            return await mmu.zap.drop_spte(page, 1, index)
        await mmu.set_spte.install(
            me,
            page,
            index,
            pfn=Pfn(frame_of(spte)),
            rights=combine(role.access, gpte),
            dirty=bool(gpte & D),
        )
        return False

    async def flush_dropped(self, me: VcpuState) -> None:
        """Nobody else may find the rmap empty while a TLB still has what was dropped."""
        await self.mmu.flusher.flush_remote(me)

    async def invlpg(self, vcpu: VcpuState, gva: Gva, *events: Event) -> None:
        """Drop the spte of ``gva`` if its page is unsync. Holds: nothing at the start.

        ``events``: what is invalidated counts as old from here on, since a page that is in sync
        now may go out of sync as soon as the lock is released.
        """
        async with self.mmu.lock:
            await self.invlpg_root(vcpu, await vcpu.root.read(event=events or None), gva)

    async def invlpg_root(self, vcpu: VcpuState, root: Root, gva: Gva) -> None:
        """The same below one root. Holds: mmu_lock."""
        page = await self.mmu.cache.leaf_page(root, gva)
        if page is not None and await unsync_page(page).unsync:
            await self.drop_invalidated(vcpu, page, table_index(gva, 1))

    async def drop_invalidated(
        self, vcpu: VcpuState, page: shadow_page.ShadowPage, index: int
    ) -> None:
        """Drop a leaf, and flush before the lock is released."""
        if await self.mmu.zap.drop_spte(page, 1, index):
            await self.mmu.flusher.flush_remote(vcpu)


class PageFault(fault.PageFault):
    """Lets tables go out of sync on write faults, and links only what is in sync."""

    async def install_leaf(
        self,
        vcpu: VcpuState,
        page: shadow_page.ShadowPage,
        walk: GuestWalk,
        pfn: Pfn,
        kind: AccessKind,
    ) -> FaultResult:
        """Mark first, then map."""
        if kind.write:
            await shadowing_of(self.mmu).unsync_frame(walk.gfn)
        return await super().install_leaf(vcpu, page, walk, pfn, kind)

    async def link(
        self,
        vcpu: VcpuState,
        page: shadow_page.ShadowPage,
        index: int,
        child: shadow_page.ShadowPage,
    ) -> None:
        """Sync what lies below a page, then lead to it."""
        await self.sync_before_link(vcpu, child)
        await super().link(vcpu, page, index, child)

    async def sync_before_link(self, vcpu: VcpuState, child: shadow_page.ShadowPage) -> None:
        """What could not be reached before needs no invalidation to be seen as it is."""
        await shadowing_of(self.mmu).sync_children(vcpu, child)


class Zap(zap.Zap):
    """What is unlinked is neither unsync nor leads to what is."""

    async def unlink(self, page: shadow_page.ShadowPage) -> Header:
        """Clear the marks with the sptes."""
        header = await super().unlink(page)
        marked = unsync_page(page)
        if await marked.unsync:
            await marked.unsync.set(False)
        if await marked.unsync_children:
            await marked.unsync_children.set(())
        return header


class Roots(roots.Roots):
    """Syncs what a vCPU runs on."""

    async def sync(self, vcpu: VcpuState) -> None:
        """Sync all below the root; without the lock if there is nothing to do."""
        for number in (await vcpu.root).pages:
            page = None if number == NO_PAGE else unsync_page(self.mmu.cache.pages[number])
            if page is not None and await page.unsync_children:
                async with self.mmu.lock:
                    await shadowing_of(self.mmu).sync_children(vcpu, page)

    async def sync_all(self, vcpu: VcpuState) -> None:
        """Sync all that a flush of all of the guest's address spaces is about."""
        await self.sync(vcpu)


class Flush(flush.Flush):
    """A vCPU that flushes for its guest syncs too."""

    async def flush_local(self, me: VcpuState, *, event: EventSpec = None) -> None:
        """Make ``me`` sync and flush before it enters: the guest has loaded cr3."""
        await self.make_request(self.vcpus[me.number], MMU_SYNC)
        await super().flush_local(me, event=event)


class RunLoop(mmu_reload.RunLoop):
    """INVLPG exits, and one more request is served."""

    async def serve_requests(self, vcpu: Vcpu) -> None:
        """First sync, then flush: what the sync made may be flushed with it."""
        if await vcpu.requests.update(take_request, MMU_SYNC):
            await roots_of(vcpu.mmu).sync(vcpu)
        await super().serve_requests(vcpu)

    async def invlpg(self, vcpu: Vcpu, gva: Gva) -> None:
        """Drop the spte if it may be old, then the TLB entry."""
        await self.leave(vcpu, "invlpg")
        await self.invalidate(vcpu, gva, Invlpg(vcpu.number, gva))

    async def fault(self, vcpu: Vcpu, gva: Gva, kind: AccessKind) -> FaultResult | GuestFault:
        """A page fault of the guest's own invalidates its address."""
        answer = await super().fault(vcpu, gva, kind)
        if isinstance(answer, GuestFault):
            await self.invalidate(vcpu, gva)
        return answer

    async def invalidate(self, vcpu: Vcpu, gva: Gva, *events: Event) -> None:
        """Make the next access to ``gva`` follow the guest's tables."""
        await shadowing_of(vcpu.mmu).invlpg(vcpu, gva, *events)
        await vcpu.pcpu.invalidate(gva)


def unsync_page(page: shadow_page.ShadowPage) -> ShadowPage:
    """A shadow page of a machine with this feature."""
    assert isinstance(page, ShadowPage)
    return page


def shadowing_of(mmu: ShadowMmu) -> Shadowing:
    """Where a machine with this feature finds and syncs pages."""
    assert isinstance(mmu.shadowing, Shadowing)
    return mmu.shadowing


def roots_of(mmu: ShadowMmu) -> Roots:
    """The roots of a machine with this feature."""
    assert isinstance(mmu.roots, Roots)
    return mmu.roots


def _add_index(indexes: Numbers, index: int) -> tuple[Numbers, bool]:
    """With ``index``; whether there was none before."""
    return with_number(indexes, index), not indexes


def _remove_index(indexes: Numbers, index: int) -> tuple[Numbers, None]:
    return without_number(indexes, index), None


SPEC = Feature(
    title="tables of level 1 are written natively and synced when the guest invalidates",
    source="KVM 4731d4c7a0 (2.6.28), 578e1c4db221 (4.19), 65855ed8b034 (5.15)",
    since="2.6.28",
    eras=("2.6.28", "3.6", "5.15", "2026"),
    needs=("mmu-reload",),
    excludes=("no-cache",),
    locks={"mmu_lock": "unsync, and writes of unsync_children"},
    requests={"MMU_SYNC": "bring the shadow below the root up to date before the next entry"},
)
