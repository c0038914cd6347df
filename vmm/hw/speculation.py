"""Speculative fills: while it runs the guest, a processor may cache what no access of its needed.

Two forms of the same. ``may``: what could have been cached since the last flush is kept as a set,
and a walk chooses from it. ``tasks``: an optional task of each pCPU walks ahead, and fills its TLB
and its paging-structure caches; many more states, so for live runs, and for tiny worlds that
compare the two.

    pCPU 0 (guest, has never used the page)    host
                                               spte: page P
    may walk it: P
                                               clears the spte; no flush
    uses P

The set follows from what the tables have lost: each store to an entry adds, in the same action, the
entry as it was to the *lost entries* of every pCPU that has run the guest since its last flush. A
walk may take a lost entry in place of the one in memory, as long as no entry is older than the one
that led to it (``vmm.hw.history``, of one processor). So a walk may be an old one as far as it got,
and go on in tables that have been freed since: what is read there is read now.

An old entry may permit less than memory does by now. Then the access faults, which drops all that
is cached for it: at most one such fault.

Departs from silicon, in ``may``: an INVLPG drops lost entries of every page; an entry that was
stored and lost while the pCPU was outside the guest counts as one that could be walked.

Source: Intel SDM vol. 3, 4.10.2.3, 4.10.3.1 (speculative fills), 4.10.4.1 (what #PF drops).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

from vmm.bits import P, U, W, combine, frame_of, is_walkable
from vmm.engine.ops import Op, atomically, choose
from vmm.engine.tso import BehindBuffer
from vmm.hw import pcpu
from vmm.hw import tlb as tlbs
from vmm.hw.events import TlbFlush, WalkRead
from vmm.hw.paging import grants
from vmm.hw.pcpu import Ipi, Irq, entered
from vmm.hw.tlb import StructureCaches, Tlb, TlbEntry, UpperEntry, tag_of
from vmm.units import Gva, Pfn, page_number, table_index

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, CellArray
    from vmm.engine.events import Event, EventSpec
    from vmm.engine.world import World
    from vmm.hw.access import AccessKind
    from vmm.hw.paging import Controls

FORMS = ("none", "may", "tasks")


class Lost(NamedTuple):
    """An entry that is no more: of the table in host frame ``table``."""

    table: int
    place: int
    entry: int


LostEntries = tuple[Lost, ...] | None
"""In the order in which they were lost; None: the guest has not run since the last flush."""


class Past(NamedTuple):
    """An entry to walk by, and from where on in the lost entries the next one may be taken."""

    entry: int
    since: int


class MayPcpu(pcpu.Pcpu):
    """A pCPU that may have walked ahead, kept as a set."""

    def __init__(self, world: World, number: int, **others: Any) -> None:
        super().__init__(world, number, **others)
        self.lost: Cell[LostEntries] = world.cell(
            f"lost entries {number}",
            None,
            marked=True,
            observable=False,
            buffered=False,
            format=_format_lost,
        )

    async def run_guest(self, event: Event | None = None) -> None:
        """From here on what is lost may have been walked."""
        cells = (self.irq, self.lost)
        await atomically(_run_guest, cells, reads=(self.ipi,), event=event)

    async def invalidate(self, gva: Gva, *events: Event) -> None:
        """Nothing that was lost is of use any more."""
        await super().invalidate(gva, *events)
        await self.lost.set(())

    async def flush(self) -> None:
        """The same, and the guest has not run since."""
        await super().flush()
        await self.lost.set(None)

    async def drop_upper(self) -> None:
        """Part of every flush, also of a part of the TLB."""
        await super().drop_upper()
        await self.lost.set(())

    async def walk(
        self,
        top: int,
        root: Pfn,
        gva: Gva,
        kind: AccessKind,
        controls: Controls,
        pcid: int = 0,
    ) -> TlbEntry | None:
        """A walk of now, or one that was begun earlier."""
        lost = await self.lost
        if not lost:
            return await super().walk(top, root, gva, kind, controls, pcid)
        table, rights, since = root, W | U, 0
        for level in range(top, 0, -1):
            place = table_index(gva, level)
            past = past_entries(lost, table, place, since)
            chosen = await choose(len(past) + 1) if past else 0
            if chosen < len(past):
                entry, since = past[chosen]
            else:
                event = WalkRead(self.number, table, gva, level)
                entry = await self.table_entry(table, place).read(event=event)
                since = since_last(lost, table, place, since)
            if not is_walkable(entry):
                await self.forget_lost()
                return None
            table, rights = Pfn(frame_of(entry)), combine(rights, entry)
        if not grants(rights, kind, controls):
            await self.forget_lost()
            return None
        found = TlbEntry(tag_of(self.vpid, pcid), page_number(gva), table, rights)
        await self.tlb.update(_fill, found)
        return found

    async def forget_lost(self) -> None:
        """A page fault drops what is cached, so that the next walk is one of now."""
        await self.lost.set(())


def past_entries(lost: tuple[Lost, ...], table: int, place: int, since: int) -> tuple[Past, ...]:
    """What an entry has been since a point, oldest first, each with when it could be read first."""
    found: tuple[Past, ...] = ()
    for at in range(since, len(lost)):
        if lost[at][:2] == (table, place):
            if is_walkable(lost[at].entry):
                found = (*found, Past(lost[at].entry, since))
            since = at + 1
    return found


def since_last(lost: tuple[Lost, ...], table: int, place: int, since: int) -> int:
    """When the entry of now could be read first."""
    ends = [at + 1 for at in range(since, len(lost)) if lost[at][:2] == (table, place)]
    return ends[-1] if ends else since


class Ahead(NamedTuple):
    """How far a pCPU has walked ahead: a table, and the rights of the walk up to there."""

    table: int
    rights: int


class AheadPcpu(pcpu.Pcpu):
    """A pCPU that walks ahead by a task of its own. Leaving the guest ends the walk."""

    def __init__(self, world: World, number: int, **others: Any) -> None:
        super().__init__(world, number, **{**others, "structure_caches": True})
        self.ahead: Cell[Ahead | None] = world.cell(
            f"walk ahead {number}", None, marked=True, observable=False, buffered=False
        )

    async def interrupts_off(self, event: EventSpec = None, *, serialising: bool = False) -> None:
        """No walk is under way from here on."""
        del serialising  # there are no store buffers
        await atomically(_leave_guest, (self.irq, self.ahead), event=event)

    async def invalidate(self, gva: Gva, *events: Event) -> None:
        """Drop the page, and the walk that is under way, in one action."""
        await self.drop_upper()
        cells, events = (self.tlb, self.ahead), (TlbFlush(self.number), *events)
        await atomically(_drop_page, cells, self.vpid, page_number(gva), event=events)

    async def walk_ahead(self, top: int, root: Pfn, gva: Gva, pcid: int) -> None:
        """Walk to the end, unless the walk is ended before; fill what there is to fill."""
        assert self.caches is not None, "a pCPU that walks ahead has structure caches"
        tag, table = tag_of(self.vpid, pcid), root
        for level in range(top, 0, -1):
            found = await atomically(
                _walk_on,
                (self.ahead, self.caches, self.tlb),
                (tag, gva, level),
                reads=(self.table_entry(table, table_index(gva, level)),),
                event=partial(_if_read, WalkRead(self.number, table, gva, level, ahead=True)),
            )
            if found is None or found.table is None:
                return
            table = Pfn(found.table)


class Found(NamedTuple):
    """What a walk ahead read: the next table, or that it is at its end."""

    table: int | None


def _if_read(event: WalkRead, found: Found | None) -> tuple[WalkRead, ...]:
    return () if found is None else (event,)


Filled = tuple[Ahead | None, StructureCaches, Tlb]


def _walk_on(
    entry: int,
    ahead: Ahead | None,
    caches: StructureCaches,
    tlb: Tlb,
    at: tuple[int, Gva, int],
) -> tuple[Filled, Found | None]:
    """One level on; None if the walk was ended meanwhile."""
    tag, gva, level = at
    if ahead is None:
        return (None, caches, tlb), None
    if not is_walkable(entry):
        return (None, caches, tlb), Found(None)
    table, rights = frame_of(entry), combine(ahead.rights, entry)
    if level == 1:
        filled = tlbs.fill(tlb, TlbEntry(tag, page_number(gva), table, rights))
        return (None, caches, filled), Found(None)
    upper = UpperEntry(tag, level, tlbs.prefix_of(gva, level), table, rights)
    return (Ahead(table, rights), tlbs.fill_upper(caches, upper), tlb), Found(table)


def _leave_guest(irq: Irq, ahead: Ahead | None) -> tuple[tuple[Irq, None], None]:
    del irq, ahead
    return (Irq.OFF, None), None


def _drop_page(
    tlb: Tlb, ahead: Ahead | None, vpid: int, page: int
) -> tuple[tuple[Tlb, None], None]:
    del ahead
    return (tlbs.drop_page(tlb, vpid, page), None), None


class Noting(BehindBuffer, eq=False, gc=False):
    """A store to entries, which adds to the lost ones of every pCPU what it replaces."""

    kind: ClassVar[str] = "noting"

    tables: Mapping[int, tuple[int, int]]
    lost: tuple[Any, ...]

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return (*self.inner.cells, *self.lost)

    @property
    def written(self) -> tuple[Cell[Any], ...]:
        return (*self.inner.written, *self.lost)

    def operands(self) -> tuple[Any, ...]:
        return (*super().operands(), *sorted(self.tables.items()))

    def enabled(self, memory: Any, task: int) -> bool:
        return self.inner.enabled(memory, task)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        before = {index: memory[index] for index in self.tables}
        result, record = self.inner.run(memory, task)
        gone = tuple(
            [
                Lost(*self.tables[index], old)
                for index, old in before.items()
                if old & P and old != memory[index]
            ]
        )
        for cell in self.lost if gone else ():
            if memory[cell.index] is not None:
                memory[cell.index] = (*memory[cell.index], *gone)
        return result, record


class Noted:
    """As ``Task.through``: stores to ``entries`` are noted. ``where`` gives table and place."""

    __slots__ = ("entries", "lost", "pfns")

    def __init__(
        self, entries: CellArray[Any, int], pfns: tuple[int, ...], lost: tuple[Any, ...]
    ) -> None:
        self.entries = entries
        self.pfns = pfns
        self.lost = lost

    def __call__(self, op: Any) -> Any:
        if not isinstance(op, Op):
            return op
        stored = [cell for cell in op.written if cell.array is self.entries]
        if not stored:
            return op
        keys = [(cell.index, cast("tuple[int, int]", cell.key)) for cell in stored]
        tables = {index: (self.pfns[page], place) for index, (page, place) in keys}
        return Noting(op, self.lost[0], tables, self.lost)


def note_stores(
    world: World, entries: CellArray[Any, int], pfns: tuple[int, ...], pcpus: tuple[Any, ...]
) -> None:
    """Have every task of a world note what it takes from paging entries.

    ``entries``: by (number of the table, index); ``pfns``: where the tables lie, by number.
    """
    lost = tuple([pcpu.lost for pcpu in pcpus])
    for task in world.tasks:
        world.tasks[task.index] = replace(task, through=Noted(entries, pfns, lost))


def _run_guest(ipi: Ipi, irq: Irq, lost: LostEntries) -> tuple[tuple[Irq, LostEntries], None]:
    del irq
    return (entered(ipi), () if lost is None else lost), None


def _fill(tlb: Tlb, entry: TlbEntry) -> tuple[Tlb, None]:
    return tlbs.fill(tlb, entry), None


def _format_lost(lost: LostEntries) -> str:
    entries = [f"pfn {at.table:#x}[{at.place}] -> pfn {frame_of(at.entry):#x}" for at in lost or ()]
    return ", ".join(entries) or "none"
