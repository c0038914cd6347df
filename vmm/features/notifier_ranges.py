"""Faults retry for invalidations of their own range only.

    host thread M (unmaps frame h)         host thread N (unmaps frame g)
    start: count = 1; range := h
                                           start: count = 2; range := g to h
    vCPU 0 faults on g: in the range, retry
    end: ++seq; count = 1
    vCPU 0 faults on h, resolved since: in the range still, retry
                                           end: ++seq; count = 0

An invalidation may take long, and the host may have one under way at all times. Without ranges no
fault ends meanwhile, whatever its frame; with them only those do not that are hit. There is one
range, which grows to hold all invalidations that are open, and begins anew when none was: it is
never smaller than what is open. The sequence counts for all frames as before.

Source: KVM 4a42d848db95 (2021, 5.12).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.cells import Guard
from vmm.engine.ops import mark
from vmm.features import Feature, notifier

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, Lock
    from vmm.engine.world import World
    from vmm.mmu.memslots import HostPage

Range = tuple[int, int]
"""The first frame, and the one after the last."""


class Memslots(notifier.Memslots):
    """``range`` holds all that is open; it says nothing while the count is 0."""

    def __init__(self, world: World, lock: Lock) -> None:
        super().__init__(world, lock)
        self.range: Cell[Range] = world.cell(
            "mmu_notifier_range", (0, 0), guard=Guard.FULL, lock=lock, format=_format
        )

    async def open_range(self, first: int, frames: int) -> None:
        """An invalidation begins: faults in its range retry until it is over. Holds: mmu_lock."""
        await super().open_range(first, frames)
        opened = (first, first + frames)
        if await self.count > 1:
            opened = self.joined(await self.range, opened)
        await self.range.set(opened)

    def joined(self, old: Range, new: Range) -> Range:
        """A range that holds both."""
        return min(old[0], new[0]), max(old[1], new[1])

    async def still_holds(self, page: HostPage) -> bool:
        """Whether no invalidation of the page is under way, nor any was since it was resolved."""
        if await self.count:
            first, end = await self.range
            if first <= page.gfn < end:
                return False
            await mark("fault beside an invalidation")
        return await self.sequence == page.sequence


def _format(frames: Range) -> str:
    return f"gfn {frames[0]:#x} to {frames[1] - 1:#x}" if frames[0] < frames[1] else "none"


SPEC = Feature(
    title="faults retry for invalidations of their own range only",
    source="KVM 4a42d848db95 (5.12)",
    since="5.12",
    eras=("5.15", "2026"),
    needs=("notifier",),
    locks={"mmu_lock": "mmu_notifier_range"},
)
