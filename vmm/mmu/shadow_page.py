"""Shadow pages: the tables that the processor walks, and their headers.

Source: KVM cea0f0e7ea (2007).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from vmm.bits import format_spte
from vmm.engine.cells import CellArray, Guard
from vmm.engine.ops import atomically
from vmm.engine.world import ModelObject, World
from vmm.mmu.role import Role
from vmm.units import Gfn, Numbers, Pfn, with_number, without_number

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from vmm.engine.cells import Cell, Lock
    from vmm.engine.events import EventSpec

FIRST_PFN = Pfn(0x100000)
"""Host frame of shadow page 0: above any guest frame (``hw.layout.GUEST_MAXPHYADDR``)."""


class SpteRef(NamedTuple):
    """A sptep: entry ``index`` of shadow page ``page``."""

    page: int
    index: int  # type: ignore[assignment]  # hides tuple.index, of no use here

    def __str__(self) -> str:
        return f"sp{self.page}[{self.index}]"


Refs = tuple[SpteRef, ...]


class Header(NamedTuple):
    """What a shadow page shadows: the key of the cache."""

    gfn: Gfn
    role: Role


def format_refs(refs: Refs) -> str:
    """Spteps for a reader."""
    return ", ".join(map(str, refs)) or "none"


def format_header(header: Header | None) -> str:
    """What a shadow page shadows, for a reader."""
    return "free" if header is None else f"gfn {header.gfn:#x} {header.role}"


class ShadowPage(ModelObject):
    """One shadow table. Its sptes are read by hardware without the lock, hence write guarded.

    ``present`` indexes the sptes that hold anything, so that loops need not visit 512 entries; all
    are present, but for those that features make. ``unsync`` says
    that its guest table may be written natively; None: never (it comes with the feature unsync).
    ``mmu_valid_gen``: the generation that the page was made in (with the feature fast-zap).
    """

    spte_guard: ClassVar[Guard] = Guard.WRITE
    unsync: Cell[bool] | None = None
    mmu_valid_gen: Cell[int] | None = None

    def __init__(
        self, world: World, number: int, lock: Lock, sptes: CellArray[SpteRef, int]
    ) -> None:
        self.number = number
        self.pfn = Pfn(FIRST_PFN + number)
        self.sptes = sptes
        name = f"sp{number}"
        self.header: Cell[Header | None] = world.cell(
            f"{name} header", None, guard=Guard.FULL, lock=lock, format=format_header
        )
        self.parents: Cell[Refs] = world.cell(
            f"{name} parents", (), guard=Guard.FULL, lock=lock, format=format_refs
        )
        self.root_count = world.cell(f"{name} root count", 0, guard=Guard.FULL, lock=lock)
        self.present: Cell[tuple[int, ...]] = world.cell(
            f"{name} present", (), guard=Guard.FULL, lock=lock, observable=False
        )

    def __getitem__(self, index: int) -> Cell[int]:
        return self.sptes[SpteRef(self.number, index)]

    def set_spte(self, index: int, spte: int, *, event: EventSpec = None) -> Awaitable[None]:
        """Store an spte, whole, in one op; the index of present ones follows atomically.

        Holds: mmu_lock. Source: KVM 0d551bb698 (build the spte in a local, store it once).
        """
        return atomically(_store, (self[index], self.present), index, spte, event=event)

    async def exchange(self, index: int, old: int, new: int) -> int:
        """Store ``new`` over ``old``, which the caller has read; gives what it replaced.

        Holds: mmu_lock. Without features nobody else writes sptes, so that is ``old``.
        """
        await self.set_spte(index, new)
        return old

    async def xchg(self, index: int, old: int, new: int) -> int:
        """Store ``new`` over an spte that may change without the lock; gives what it replaced.

        ``old`` is what the caller has read. The index of present ones does not follow.
        """
        while not await self[index].cas(old, new):
            old = await self[index]
        return old


def make_spte_array(world: World, lock: Lock, guard: Guard) -> CellArray[SpteRef, int]:
    """The sptes of all shadow pages of a VM."""
    return world.array(
        "spte",
        0,
        label=lambda ref: f"spte {ref}",
        guard=guard,
        lock=lock,
        marked=True,
        format=format_spte,
    )


def add_ref(refs: Refs, ref: SpteRef) -> tuple[Refs, None]:
    """Add a sptep, kept sorted: the order is not observable. For ``Cell.update``."""
    return tuple(sorted((*refs, ref))), None


def remove_ref(refs: Refs, ref: SpteRef) -> tuple[Refs, bool]:
    """Remove a sptep once; the result says whether it was there. For ``Cell.update``."""
    if ref not in refs:
        return refs, False
    at = refs.index(ref)
    return (*refs[:at], *refs[at + 1 :]), True


def listed(present: Numbers, index: int, there: bool) -> Numbers:
    """The indexes of present sptes with one of them there, or not there."""
    return with_number(present, index) if there else without_number(present, index)


def _store(
    old: int, present: tuple[int, ...], index: int, spte: int
) -> tuple[tuple[int, tuple[int, ...]], None]:
    del old
    return (spte, listed(present, index, bool(spte))), None
