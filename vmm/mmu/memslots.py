"""Guest frames to host frames.

A guest frame lies in the host frame of the same number, for good. Features that let the host move
or take frames override this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from vmm.engine.world import ModelObject, World
from vmm.errors import UsageError
from vmm.units import Gfn, Pfn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm.engine.cells import Lock

GENERATION_SHIFT = 24


class HostPage(NamedTuple):
    """The host page that a fault resolved; ``sequence`` says when (mmu notifier)."""

    gfn: Gfn
    pfn: Pfn
    sequence: int = 0


def pfn_of(gfn: int, generation: int) -> Pfn:
    """The host frame of a guest frame in its n-th generation."""
    return Pfn(gfn | generation << GENERATION_SHIFT)


def gfn_of(pfn: int) -> Gfn:
    """The guest frame that a host frame belongs to, whatever its generation."""
    return Gfn(pfn & (1 << GENERATION_SHIFT) - 1)


class Memslots(ModelObject):
    """The guest's frames. Ops: none. ``lock`` is mmu_lock."""

    host_paging: ClassVar[bool] = False
    """Whether the host page of a frame may change: then it can be told by ``pin`` only."""

    def __init__(self, world: World, lock: Lock) -> None:
        del world, lock

    def place(self, slots: Sequence[tuple[int, int]]) -> None:
        """The slots that a VM begins with, as (first frame, frames). Errors: there is only one."""
        if slots:
            raise UsageError(
                "memory slots are given to a machine that has only one: "
                'give it features=("memslots",)'
            )

    async def pin(self, gfn: Gfn) -> HostPage:
        """The host page of ``gfn``, to be mapped by a fault. Holds: nothing."""
        return HostPage(gfn, pfn_of(gfn, 0))

    async def unpin(self, page: HostPage) -> None:
        """The fault is done with the page."""

    async def still_holds(self, page: HostPage) -> bool:
        """Whether what ``pin`` said may be installed. Holds: mmu_lock."""
        return True
