"""The notifier takes mmu_lock for memory slots only, and slots stay while it is at work.

    host thread N (unmaps frame g)         host thread M (changes the slots)
    start: ++mn_active_invalidate_count
    g has a slot: acquire mmu_lock,
    ++count, zap, flush; release
                                           publish: waits
    frees the page of g
    end: g has a slot: acquire mmu_lock,
    ++seq, --count; release
    --mn_active_invalidate_count
                                           publishes the new slots

vCPU 0, faulting, retries as long as the count is not 0. It goes up at the start and down at the end
of an invalidation, if the range hits a slot. Both must find the same, or the count is wrong for
good; so who changes the slots waits until no invalidation is under way.

Departs from KVM, where mn_invalidate_lock guards the number and the publication: here each is one
locked action. The wait is without a queue, so that invalidations that overlap for ever keep the
slots as they are; KVM's is so too.

Source: KVM 52ac8b358b0c, 071064f14d87 (2021, 5.15).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import atomically, mark
from vmm.features import Feature, memslots
from vmm.features.memslots import MemslotsPublished, Slots
from vmm.units import Gfn

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, Lock
    from vmm.engine.world import World


class Memslots(memslots.Memslots):
    """``active``: how many invalidations are under way, of whatever range."""

    def __init__(self, world: World, lock: Lock) -> None:
        super().__init__(world, lock)
        self.active = world.cell("mn_active_invalidate_count", 0, marked=True)


class Host(memslots.Host):
    """Host threads that invalidate, and those that change slots."""

    async def invalidate_start(self, first: int, frames: int) -> None:
        """From here to the end the slots are as they are."""
        await active_of(self).update(_add, 1)
        await self.invalidate_cached(first, frames)
        await super().invalidate_start(first, frames)

    async def invalidate_cached(self, first: int, frames: int) -> None:
        """Drop what KVM keeps of these frames beside sptes (only with gfn-pfn-cache)."""

    async def reclaim(self, gfn: int) -> bool:
        """Take one page: a range of one frame. Source: Linux 4.14, without invalidate_page."""
        await self.invalidate_start(gfn, 1)
        taken = await self.free(await self._slots.clear_entry(Gfn(gfn)))
        await self.invalidate_end(gfn, 1)
        return taken

    async def begin_invalidation(self, first: int, frames: int) -> None:
        """Take the lock if there is a slot to take it for."""
        if await self.hits(first, frames):
            await super().begin_invalidation(first, frames)
        else:
            await mark("range without a slot invalidated")

    async def invalidate_end(self, first: int, frames: int) -> None:
        """As at the start, then let the slots change."""
        under = await self._slots.srcu.read_lock()
        if await self.hits(first, frames):
            await super().invalidate_end(first, frames)
        await self._slots.srcu.read_unlock(under)
        await active_of(self).update(_add, -1)

    async def hits(self, first: int, frames: int) -> bool:
        """Whether a range has frames of a slot. Holds: a section of srcu."""
        slots = await self._slots.memslots
        return any(slots.find(gfn) is not None for gfn in range(first, first + frames))

    async def publish(self, slots: Slots) -> None:
        """Wait until no invalidation is under way. Holds: slots_lock."""
        await atomically(
            _publish,
            (self._slots.memslots,),
            slots,
            reads=(active_of(self),),
            when=_none_active,
            event=MemslotsPublished(slots.slots),
        )


def active_of(thread: memslots.Host) -> Cell[int]:
    """The number of invalidations under way, on a machine with this feature."""
    slots = thread.vm.mmu.slots
    assert isinstance(slots, Memslots)
    return slots.active


def _add(number: int, change: int) -> tuple[int, None]:
    return number + change, None


def _none_active(active: int, slots: Slots) -> bool:
    del slots
    return active == 0


def _publish(active: int, old: Slots, new: Slots) -> tuple[tuple[Slots], None]:
    del active, old
    return (new,), None


SPEC = Feature(
    title="the notifier takes mmu_lock only for slots, which do not change meanwhile",
    source="KVM 52ac8b358b0c, 071064f14d87 (5.15)",
    since="5.15",
    eras=("5.15", "2026"),
    needs=("memslots",),
    locks={
        "mmu_lock": "not taken for ranges without a slot",
        "slots_lock": "held while the end of all invalidations is waited for",
    },
)
