"""The mmu notifier: the host says what it takes away, and a fault that resolved it before retries.

    vCPU 0 (faults on frame g)             host thread (unmaps a range with g)
    s = mmu_notifier_seq
    g lies in host page P
                                           start: acquire mmu_lock; ++count
                                           zap every spte in rmap[g], flush; release
    acquire mmu_lock: count is not 0
    release, retry
                                           clears its own entry of g, frees P
                                           end: acquire mmu_lock; ++seq; --count; release
    acquire mmu_lock: seq is not s
    release, retry

The count covers the time in which the old host page can still be resolved, the sequence what was
resolved before and arrives after. Ranges may nest and overlap: the count is how many are open. A
single page needs no count: the host clears its own entry first, so whoever resolves after that gets
a fresh page, and whoever resolved before sees another sequence.

The flush comes before mmu_lock is released, or another thread could find nothing to zap, flush
nothing, and believe that no TLB holds the page (565f3be217).

Ageing takes the sptes away to see whether the next access brings them back, as KVM does where sptes
have no accessed bit of their own (VMX: "Emulate accessed bit for EPT", 2010).

Source: KVM e930bffe95 (2008, 2.6.27); 565f3be217 (2012). Departs from KVM in that faults take no
page reference: what they hold may be freed, which a reference would only delay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.cells import Guard
from vmm.engine.ops import mark
from vmm.features import Feature, host_paging
from vmm.features.host_paging import HostFrame
from vmm.hw.events import GiveBack, Take
from vmm.mmu.memslots import HostPage, pfn_of
from vmm.units import Gfn, Pfn

if TYPE_CHECKING:
    from vmm.engine.cells import Lock
    from vmm.engine.world import World


class Memslots(host_paging.Memslots):
    """Guest frames that the host takes without asking. ``sequence`` and ``count`` are KVM's.

    mmu_notifier_seq may be read without the lock, mmu_notifier_count only under it.
    """

    def __init__(self, world: World, lock: Lock) -> None:
        super().__init__(world, lock)
        self.sequence = world.cell(
            "mmu_notifier_seq", 0, guard=Guard.WRITE, lock=lock, marked=True, observable=False
        )
        self.count = world.cell("mmu_notifier_count", 0, guard=Guard.FULL, lock=lock)

    async def pin(self, gfn: Gfn) -> HostPage:
        """The host page of ``gfn`` as of now: first the sequence, then the page."""
        sequence = await self.sequence
        pfn = await self.frames[gfn].update(_resolve, gfn, event=_taken)
        return HostPage(gfn, pfn, sequence)

    async def unpin(self, page: HostPage) -> None:
        """Nothing is held."""

    async def still_holds(self, page: HostPage) -> bool:
        """Whether no invalidation is under way, nor was since the page was resolved."""
        return await self.count == 0 and await self.sequence == page.sequence

    async def open_range(self, first: int, frames: int) -> None:
        """An invalidation begins: faults retry until it is over. Holds: mmu_lock."""
        del first, frames
        await self.count.update(_add, 1)

    async def clear_entry(self, gfn: Gfn) -> Pfn | None:
        """Clear the host's own entry; gives the page that it held. Holds: nothing."""
        return await self.frames[gfn].update(_clear, gfn)


class Host(host_paging.Host):
    """A host thread at work on the memory behind the guest."""

    async def reclaim(self, gfn: int) -> bool:
        """Take one page (invalidate_page); it is always to be had."""
        slots = self._slots
        pfn = await slots.clear_entry(Gfn(gfn))
        async with self.vm.mmu.lock:
            await slots.sequence.update(_add, 1)
            await self.zap_range(gfn, 1)
        return await self.free(pfn)

    async def unmap(self, first: int, frames: int = 1) -> None:
        """Take a range of pages."""
        await self.invalidate_start(first, frames)
        for gfn in range(first, first + frames):
            await self.free(await self._slots.clear_entry(Gfn(gfn)))
        await self.invalidate_end(first, frames)

    async def age(self, gfn: int) -> bool:
        """Whether the guest used a frame since it was last asked (clear_flush_young)."""
        async with self.vm.mmu.lock:
            young = await self.vm.mmu.zap.zap_leaves(None, Gfn(gfn))
        if young:
            await mark("young page found")
        return young

    async def invalidate_start(self, first: int, frames: int) -> None:
        """From here on no fault maps a page, and no spte or TLB holds one of the range."""
        async with self.vm.mmu.lock:
            await self._slots.open_range(first, frames)
            await self.zap_range(first, frames)

    async def zap_range(self, first: int, frames: int) -> None:
        """Unmap the frames of a range, in the shadow and in every TLB. Holds: mmu_lock."""
        for gfn in range(first, first + frames):
            await self.vm.mmu.zap.zap_leaves(None, Gfn(gfn))

    async def invalidate_end(self, first: int, frames: int) -> None:
        """Faults may map again what they resolve from now on, whatever the range was."""
        del first, frames
        async with self.vm.mmu.lock:
            await self._slots.sequence.update(_add, 1)
            await self._slots.count.update(_add, -1)

    async def free(self, pfn: Pfn | None) -> bool:
        """Give a page back to the host's allocator, if there was one."""
        if pfn is None:
            return False
        await mark(GiveBack(pfn))
        await mark("page given back")
        return True

    @property
    def _slots(self) -> Memslots:
        slots = self.vm.mmu.slots
        assert isinstance(slots, Memslots)
        return slots


def _add(number: int, change: int) -> tuple[int, None]:
    return number + change, None


def _resolve(frame: HostFrame, gfn: int) -> tuple[HostFrame, Pfn]:
    generation = frame.generation + (not frame.present)
    return HostFrame(present=True, pins=0, generation=generation), pfn_of(gfn, generation)


def _taken(pfn: Pfn) -> Take:
    return Take(pfn)


def _clear(frame: HostFrame, gfn: int) -> tuple[HostFrame, Pfn | None]:
    if not frame.present:
        return frame, None
    return frame._replace(present=False), pfn_of(gfn, frame.generation)


SPEC = Feature(
    title="the host takes pages at any time; faults that resolved them before retry",
    source="KVM e930bffe95 (2.6.27), 565f3be217 (3.4)",
    since="2.6.27",
    eras=("2.6.28", "3.6", "5.15", "2026"),
    needs=("host-paging",),
    locks={"mmu_lock": "mmu_notifier_count, and writes of mmu_notifier_seq"},
)
