"""Host paging: a host thread may take a guest frame away; the next fault gets a fresh one.

    vCPU 0 (faults on frame g)             host thread
    pin g: host page P, held
                                           acquire mmu_lock
                                           zap every spte in rmap[g], flush
                                           g is pinned: leave it
                                           release mmu_lock
    acquire mmu_lock; install the spte of P; release
    unpin g

A fault pins the host page from before it takes mmu_lock until its spte is installed, as gfn_to_page
does with a page reference, and a pinned page is not taken.

Departs from 2.6.25: there an spte's own page reference kept the host from taking a mapped page, and
the reference was dropped before the remote flush (page-freed-before-flush). Here the host zaps the
sptes itself and flushes before it takes the page.

Source: KVM 8a7ae055f3 (2008, partial swapping of guest memory).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmm.engine.ops import mark
from vmm.features import Feature
from vmm.hw.events import GiveBack, Take
from vmm.mmu import memslots
from vmm.mmu.memslots import HostPage, pfn_of
from vmm.units import Gfn, Pfn
from vmm.vcpu import host

if TYPE_CHECKING:
    from vmm.engine.cells import CellArray, Lock
    from vmm.engine.world import World


class HostFrame(NamedTuple):
    """Where a guest frame lies: ``generation`` counts the host pages it has had."""

    present: bool
    pins: int
    generation: int


class Memslots(memslots.Memslots):
    """Guest frames whose host pages come and go. Ops: one locked update a call."""

    host_paging = True

    def __init__(self, world: World, lock: Lock) -> None:
        super().__init__(world, lock)
        self.frames: CellArray[int, HostFrame] = world.array(
            "host page",
            HostFrame(present=True, pins=0, generation=0),
            label=lambda gfn: f"host page of gfn {gfn:#x}",
            marked=True,
            format=_format,
        )

    async def pin(self, gfn: Gfn) -> HostPage:
        """The host page of ``gfn``, held until ``unpin``; a fresh one if it was taken away."""
        return HostPage(gfn, await self.frames[gfn].update(_pin, gfn, event=_taken))

    async def unpin(self, page: HostPage) -> None:
        """Let go of a pinned page."""
        await self.frames[page.gfn].update(_unpin)

    async def give_back(self, gfn: Gfn) -> bool:
        """Take the host page away unless it is pinned. Holds: mmu_lock; no spte maps it."""
        return await self.frames[gfn].update(_give_back, gfn, event=_given) is not None


class Host(host.Host):
    """A host that is short of memory."""

    async def reclaim(self, gfn: int) -> bool:
        """Take the host page of a guest frame away; whether it could be had."""
        mmu = self.vm.mmu
        async with mmu.lock:
            await mmu.zap.zap_leaves(None, Gfn(gfn))
            taken = await slots_of(self).give_back(Gfn(gfn))
        if taken:
            await mark("page given back")
        return taken


def slots_of(thread: host.Host) -> Memslots:
    """The memslots of a machine with this feature."""
    slots = thread.vm.mmu.slots
    assert isinstance(slots, Memslots)
    return slots


def _format(frame: HostFrame) -> str:
    where = f"generation {frame.generation}" if frame.present else "taken away"
    return f"{where}, {frame.pins} pins"


def _pin(frame: HostFrame, gfn: int) -> tuple[HostFrame, Pfn]:
    generation = frame.generation + (not frame.present)
    return HostFrame(True, frame.pins + 1, generation), pfn_of(gfn, generation)


def _taken(pfn: Pfn) -> Take:
    return Take(pfn)


def _unpin(frame: HostFrame) -> tuple[HostFrame, None]:
    return frame._replace(pins=frame.pins - 1), None


def _give_back(frame: HostFrame, gfn: int) -> tuple[HostFrame, Pfn | None]:
    if frame.pins or not frame.present:
        return frame, None
    return frame._replace(present=False), pfn_of(gfn, frame.generation)


def _given(pfn: Pfn | None) -> GiveBack | None:
    return None if pfn is None else GiveBack(pfn)


SPEC = Feature(
    title="a host thread may take guest frames away; faults pin what they map",
    source="KVM 8a7ae055f3 (2.6.25, partial swapping of guest memory)",
    since="2.6.25",
    locks={"mmu_lock": "held while the sptes of a frame are zapped and its page is taken"},
)
