"""What a processor may still use of paging tables that have been rewritten since.

A processor may cache any entry of a walk that could be made, at any time, and may keep it until an
invalidation makes it forget. So it may use a walk whose upper entries are older than its lower
ones; not the reverse, since an entry is read after the one that leads to it.

    processor                              store
    caches PDE: table T
                                           PTE 0 of T: frame 2 -> frame 4
                                           PDE: table T -> table S
    may use T, hence frame 4, or frame 2

What it may hold would be a set for each address and level. Kept is instead what such sets cannot be
computed from, which is much less: a history of the values that tables have lost since the processor
last forgot everything. All other walks are those of the tables as they are now.

    Lost    values that entries of one table had; the next ones in the history are later
    Mark    an invalidation of less than everything: cached upper entries ended here, and what is
            older is of use only as a translation that was complete by then

A store that only adds to what an entry permits, or that replaces what cannot be cached, leaves no
trace where no trace can matter. Entries of one table are not ordered among themselves, since no
walk meets two of them, unless the table is part of the walk to itself: then too much is allowed.
Too much is allowed as well after A or D was set, or rights were given: the new entry counts as if
it had been there since the last change of that entry.

Source: Intel SDM vol. 3, 4.10.2.3, 4.10.3 (what may be cached), 4.10.4.1 (what invalidates),
4.10.4.3 (optional invalidation), 4.4.1 (PDPTE registers, which are no cache).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from vmm.bits import NX, A, D, G, P, W
from vmm.hw.access import AccessKind
from vmm.hw.memory import part_of
from vmm.hw.paging import (
    ALL_RIGHTS,
    Controls,
    Format,
    PagingRegisters,
    add_rights,
    format_of,
    is_global,
    is_leaf,
    page_bytes,
    refusal,
    reserved_bits,
    root_base,
    table_base,
    target,
)
from vmm.units import Gfn, Gpa, Gva, gpa_to_gfn, page_offset

if TYPE_CHECKING:
    from vmm.engine.cells import Cell

ReadEntry = Callable[[int, int], int]
"""(gpa, bytes) to the entry that memory holds now."""
Path: TypeAlias = tuple[tuple[int, int], ...]
"""(level, index) of the tables that are still to be walked."""


class Lost(NamedTuple):
    """Values that entries of one table had: by the gpa of the entry, oldest first."""

    table: Gfn
    values: tuple[tuple[int, tuple[int, ...]], ...]


class Mark(NamedTuple):
    """An invalidation. ``registers``: those before it.

    It left the complete translations that do not lie in ``pages`` (gvas); with ``only_global``, of
    those the global ones. ``elsewhere``: it was of these pages under another PCID, so it left what
    is not global.
    """

    registers: PagingRegisters
    pages: tuple[int, ...] = ()
    only_global: bool = False
    elsewhere: bool = False

    def left(self, leaf: Leaf) -> bool:
        """Whether a translation may be older than this."""
        if self.elsewhere and not leaf.is_global:
            return True
        if self.only_global and not leaf.is_global:
            return False
        return not any(leaf.covers(gva) for gva in self.pages)

    def concerns(self, gva: int) -> bool:
        """Whether walks for an address end here."""
        return not self.elsewhere or any(page >> 12 == gva >> 12 for page in self.pages)


History: TypeAlias = tuple[Lost | Mark, ...]
Store: TypeAlias = tuple[int, int, int]
"""Of an entry, or a word: (gpa, what it was, what it is now)."""


class Leaf(NamedTuple):
    """A translation of ``gva`` that a processor may hold; ``entry`` maps a page of ``size``."""

    gva: int
    gpa: int
    rights: int
    entry: int
    size: int
    is_global: bool

    def covers(self, gva: int) -> bool:
        """Whether an address lies in the same page."""
        return gva // self.size == self.gva // self.size

    def permits(self, kind: AccessKind, registers: PagingRegisters) -> bool:
        """Whether an access may go through it as it is; a write needs D."""
        if kind.write and not self.entry & D:
            return False
        return refusal(self.rights, self.entry, kind, registers.controls) is None


# --- writing it ---


def lose(history: History, stores: Iterable[Store]) -> History:
    """Entries were rewritten, one after the other."""
    for table, group in groupby(stores, key=_table):
        history = _lose_of(history, table, group)
    return history


def _table(store: Store) -> Gfn:
    return gpa_to_gfn(Gpa(store[0]))


def _lose_of(history: History, table: Gfn, stores: Iterable[Store]) -> History:
    """Entries of one table were rewritten."""
    last = history[-1] if history else None
    before = last.values if isinstance(last, Lost) and last.table == table else ()
    values = dict(before)
    for gpa, old, new in stores:
        if _adds(old, new):
            continue
        if not _cacheable(old) and (gpa in values or not (history or values)):
            continue  # no other table has changed since the entry's value before that
        values[gpa] = tuple(dict.fromkeys((*values.get(gpa, ()), old)))
    run = tuple(sorted(values.items()))
    if run == before:
        return history
    return (*(history[:-1] if before else history), Lost(table, run))


def forget_page(history: History, registers: PagingRegisters, gva: Gva) -> History:
    """INVLPG, or a page fault at ``gva``: that page, and every cached entry of upper levels."""
    if not history:
        return history
    last = history[-1]
    if isinstance(last, Mark) and last == Mark(registers, last.pages):
        pages = tuple(sorted(dict.fromkeys((*last.pages, gva))))
        return (*history[:-1], last._replace(pages=pages))
    return (*history, Mark(registers, (gva,)))


def forget_elsewhere(history: History, registers: PagingRegisters, pages: list[int]) -> History:
    """The global translations of pages were invalidated while another PCID was in use."""
    if not history or not pages:
        return history
    return (*history, Mark(registers, tuple(sorted(pages)), elsewhere=True))


def keep_global(history: History, registers: PagingRegisters) -> History:
    """MOV CR3 where there are global pages; ``registers``: those before it."""
    before = len(history)
    while before and isinstance(mark := history[before - 1], Mark) and mark.only_global:
        before -= 1
    marks = dict.fromkeys((*history[before:], Mark(registers, only_global=True)))
    # The first one ends what was stored before it. Nothing was between the others: any order.
    first = list(marks)[: 1 if before else 0]
    return (*history[:before], *first, *sorted(mark for mark in marks if mark not in first))


def compact(history: History, entries: Mapping[int, int]) -> History:
    """The same, without what no global translation can come from; to be asked after a MOV CR3.

    ``entries``: all entries that memory holds, by gpa. Long runs need it, since a guest with global
    pages never forgets everything: the shorter history says the same of every address.
    """
    lost = [item for item in history if isinstance(item, Lost)]
    values: dict[int, list[int]] = {}
    for gpa, olds in [pair for item in lost for pair in item.values]:
        values.setdefault(gpa, [entries.get(gpa, 0)]).extend(olds)
    leading = _leading_to_global([*entries.items(), *_pairs(values)])
    matter = {
        gpa: any(_may_be_global(v) or (v & P and table_base(v) in leading) for v in values[gpa])
        for gpa in values
    }
    kept: list[Lost | Mark] = []
    for item in history:
        if isinstance(item, Lost):
            rest = tuple([(gpa, olds) for gpa, olds in item.values if matter[gpa]])
            if rest:
                kept.append(item._replace(values=rest))
        else:
            kept.append(item)
    return _joined(kept)


def _pairs(values: Mapping[int, list[int]]) -> list[tuple[int, int]]:
    return [(gpa, value) for gpa, all_values in values.items() for value in all_values]


def _leading_to_global(entries: Iterable[tuple[int, int]]) -> dict[int, None]:
    """The tables, by their base, that may lead to a global page."""
    above: dict[int, list[int]] = {}
    found: dict[int, None] = {}
    for gpa, entry in entries:
        if entry & P:
            base = gpa - page_offset(gpa)
            above.setdefault(table_base(entry), []).append(base)
            if entry & G:
                found[base] = None
    todo = list(found)
    while todo:
        for base in above.get(todo.pop(), ()):
            if base not in found:
                found[base] = None
                todo.append(base)
    return found


def _may_be_global(entry: int) -> bool:
    return entry & (P | G) == P | G


def _joined(history: Sequence[Lost | Mark]) -> History:
    """Without marks that end what another one, between the same stores, ends as well."""
    kept: list[Lost | Mark] = []
    seen: dict[PagingRegisters, None] = {}
    owed = Mark(PagingRegisters(Controls(), 0))
    for at in reversed(range(len(history))):
        item = history[at]
        if isinstance(item, Lost):
            seen.clear()
            kept.append(item)
            continue
        pages = tuple(sorted(dict.fromkeys((*item.pages, *owed.pages))))
        item = Mark(item.registers, pages, item.only_global or owed.only_global)
        # What it must not be older than goes over to the next older one, if there is one for it.
        if item.registers in seen and (not at or isinstance(history[at - 1], Mark)):
            owed = item
        else:
            seen[item.registers] = None
            kept.append(item)
            owed = Mark(item.registers)
    return tuple(reversed(kept))


def _cacheable(entry: int) -> bool:
    return entry & (P | A) == P | A


def _adds(old: int, new: int) -> bool:
    """Whether the store at most set A, D or W, or cleared NX: what was possible still is."""
    return not (old & ~new & ~NX or new & ~old & ~(A | D | W))


# --- reading it ---


def leaves(
    history: History, registers: PagingRegisters, gva: Gva, read: ReadEntry
) -> Iterator[Leaf]:
    """Every translation of ``gva`` that the processor may hold, whatever it permits."""
    marks = [at for at, item in enumerate(history) if isinstance(item, Mark) and item.concerns(gva)]
    passed: list[Mark] = []
    end = len(history)
    for start in [*(at + 1 for at in reversed(marks)), 0]:
        for leaf in _Walks(history, registers, gva, read, end).leaves(start):
            if all(mark.left(leaf) for mark in passed):
                yield leaf
        if start:
            mark = history[start - 1]
            assert isinstance(mark, Mark)
            passed.append(mark)
            registers, end = mark.registers, start - 1


class KnownWalks:
    """Walks of the tables as they are, remembered by what they read: an empty history's leaves.

    ``word``: the cell of the word at a gpa. Nothing depends on what is remembered: a walk is used
    as long as every word that it read says the same, and they are read in the order of the walk.
    """

    def __init__(self, word: Callable[[int], Cell[int]]) -> None:
        self.word = word
        self._known: dict[
            int, tuple[PagingRegisters, list[tuple[Cell[int], int]], Leaf | None]
        ] = {}

    def leaf(
        self, registers: PagingRegisters, gva: Gva, read: Callable[[Cell[int]], int]
    ) -> Leaf | None:
        """The translation of the 4K page of ``gva``, or None."""
        page = Gva(gva - page_offset(gva))
        known = self._known.get(page)
        if known is not None and known[0] == registers:
            for cell, value in known[1]:
                if read(cell) != value:
                    break
            else:
                return known[2]
        words: list[tuple[Cell[int], int]] = []

        def entry(gpa: int, size: int) -> int:
            cell = self.word(gpa)
            words.append((cell, read(cell)))
            return part_of(words[-1][1], gpa, size)

        leaf = next(leaves((), registers, page, entry), None)
        self._known[page] = (registers, words, leaf)
        return leaf


class _Walks(NamedTuple):
    """The walks that could be made between two points of a history, up to ``end``."""

    history: History
    registers: PagingRegisters
    gva: Gva
    read: ReadEntry
    end: int

    def leaves(self, start: int) -> Iterator[Leaf]:
        form = format_of(self.registers.controls)
        path = form.path(self.gva)
        if path:
            base = root_base(self.registers.cr3, self.registers.controls)
            yield from self._below(form, path, base, ALL_RIGHTS, start)

    def _below(
        self, form: Format, path: Path, base: int, rights: int, since: int
    ) -> Iterator[Leaf]:
        """The leaves under the table at ``base``, its entries read at ``since`` or later."""
        controls, gva = self.registers.controls, self.gva
        level, index = path[0]
        latched = form.pdptes and level == form.root_level
        for entry, at in self._entries(form, base, index, since, latched=latched):
            if not (entry & P if latched else _cacheable(entry)):
                continue
            is_last = is_leaf(entry, level, controls)
            if entry & reserved_bits(level, controls, leaf=is_last):
                continue
            so_far = add_rights(rights, entry, level, controls)
            if is_last:
                gpa, size = target(entry, level, gva, controls), page_bytes(level, controls)
                yield Leaf(gva, gpa, so_far, entry, size, is_global(entry, controls))
            else:
                yield from self._below(form, path[1:], table_base(entry), so_far, at)

    def _entries(
        self, form: Format, base: int, index: int, since: int, *, latched: bool
    ) -> Iterator[tuple[int, int]]:
        """(value, when it could be read first) of an entry, from ``since`` on."""
        if latched:
            yield self.registers.pdptes[index], since
            return
        gpa = base + index * form.entry_bytes
        table = gpa_to_gfn(Gpa(gpa))
        for at in range(since, len(self.history)):
            item = self.history[at]
            if not isinstance(item, Lost) or item.table != table:
                continue
            olds = [values for place, values in item.values if place == gpa]
            for old in olds[0] if olds else ():
                yield old, since
                if at >= self.end:
                    return  # what came after was stored too late
                since = at
            since = at + 1 if olds else since
        yield self.read(gpa, form.entry_bytes), since
