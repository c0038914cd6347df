"""Guest frames to host frames.

Without host paging a guest frame lies in the host frame of the same number, for good. With it, a
host thread may take a frame away; the next fault gets a fresh one. A fault pins the host frame from
before it takes mmu_lock until its spte is installed, as gfn_to_page does with a page reference, and
a pinned frame is not taken.

Departs from 2.6.25: there an spte's own page reference kept the host from taking a mapped page, and
the reference was dropped before the remote flush (page-freed-before-flush). Here the host zaps the
sptes itself and flushes before it takes the frame, as the mmu notifier of 2.6.27 made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmm.engine.world import ModelObject, World
from vmm.hw.events import GiveBack, Take
from vmm.units import Gfn, Pfn

if TYPE_CHECKING:
    from vmm.engine.cells import CellArray

GENERATION_SHIFT = 24


class HostFrame(NamedTuple):
    """Where a guest frame lies: ``generation`` counts the host frames it has had."""

    present: bool
    pins: int
    generation: int


def pfn_of(gfn: int, generation: int) -> Pfn:
    """The host frame of a guest frame in its n-th generation."""
    return Pfn(gfn | generation << GENERATION_SHIFT)


def gfn_of(pfn: int) -> Gfn:
    """The guest frame that a host frame belongs to, whatever its generation."""
    return Gfn(pfn & (1 << GENERATION_SHIFT) - 1)


class Memslots(ModelObject):
    """The guest's frames. Ops: none without host paging."""

    def __init__(self, world: World, *, host_paging: bool) -> None:
        self.host_paging = host_paging
        self.frames: CellArray[int, HostFrame] = world.array(
            "host page",
            HostFrame(present=True, pins=0, generation=0),
            label=lambda gfn: f"host page of gfn {gfn:#x}",
            marked=True,
            format=_format,
        )

    async def pin(self, gfn: Gfn) -> Pfn:
        """The host frame of ``gfn``, held until ``unpin``; a fresh one if it was taken away."""
        if not self.host_paging:
            return pfn_of(gfn, 0)
        return await self.frames[gfn].update(_pin, gfn, event=_taken)

    async def unpin(self, gfn: Gfn) -> None:
        """Let go of a pinned frame."""
        if self.host_paging:
            await self.frames[gfn].update(_unpin)

    async def give_back(self, gfn: Gfn) -> bool:
        """Take the host frame away unless it is pinned. Holds: mmu_lock; no spte maps it."""
        return await self.frames[gfn].update(_give_back, gfn, event=_given) is not None


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
