"""Guest page tables of a small world, laid out from a plain map of pages.

Each address space gets its own tables, in the format of its paging mode. The first table of level n
of the space number s lies in the same frame in every mode, ``FIRST_TABLE`` + 4 s + 4 - n, so that
scenarios can name it; level-5 tables, and what more is needed for pages beyond one region, follow
after all of these. Every table of every space is mapped at ``WINDOW`` + gpa, supervisor only, in
every space: a guest kernel's direct map, through which it writes its own page tables. A space of
mode "real" has no tables: there gva = gpa.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vmm.bits import NX, A, D, P, U, W, frame_of, make_entry
from vmm.errors import UsageError
from vmm.hw.control import pdpte_gpas
from vmm.hw.memory import merge, part_of
from vmm.hw.paging import (
    FORMATS,
    Controls,
    Format,
    PagingMode,
    PagingRegisters,
    is_canonical,
)
from vmm.units import (
    ENTRY_BYTES,
    LEVEL_BITS,
    PAGE_SHIFT,
    Gfn,
    Gpa,
    Gva,
    gfn_to_gpa,
    word_of,
)

FIRST_TABLE = Gfn(0x10)
FRAMES_PER_SPACE = 4
GUEST_MAXPHYADDR = 32
"""Bits of guest-physical addresses, by the guest's CPUID. Above lie the host's own frames: shadow
pages, and pages that a guest frame had before (``mmu.memslots``). Entries with more bits fault."""
REGION = Gva(0x400000)
"""First byte of the 2M region that holds the pages of a small world, and its tables' window."""
REGION_BYTES = 1 << PAGE_SHIFT + LEVEL_BITS
WINDOW = Gva(REGION + REGION_BYTES // 2)
"""Where the tables are mapped: gva = WINDOW + gpa, for the first 256 guest frames."""


@dataclass(frozen=True, slots=True)
class Page:
    """A guest mapping: a frame and its rights. A and D are set unless ``fresh``."""

    frame: int
    writable: bool = True
    user: bool = True
    no_execute: bool = False
    fresh: bool = False

    def entry(self) -> int:
        """The leaf gpte."""
        return make_entry(
            self.frame,
            P
            | (W if self.writable else 0)
            | (U if self.user else 0)
            | (NX if self.no_execute else 0)
            | (0 if self.fresh else A | D),
        )


def page(
    frame: int,
    *,
    writable: bool = True,
    user: bool = True,
    no_execute: bool = False,
    fresh: bool = False,
) -> Page:
    """A guest mapping."""
    return Page(frame, writable, user, no_execute, fresh)


MODES: Mapping[str, PagingMode] = MappingProxyType(
    {
        "real": PagingMode.NONE,
        "32-bit": PagingMode.BITS32,
        "pae": PagingMode.PAE,
        "4-level": PagingMode.LEVEL4,
        "5-level": PagingMode.LEVEL5,
    }
)
"""Guest paging modes by the names that scenarios and the command line use."""
PAGED_MODES = ("32-bit", "pae", "4-level", "5-level")
DEFAULT_MODE = "4-level"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies: root of each space, content of the tables (gpa to word).

    ``tables``: bytes of an entry, by the frame of the table. ``modes``: of the spaces, by name;
    4-level where none is said.
    """

    roots: Mapping[str, Gfn]
    tables: Mapping[Gfn, int]
    content: Mapping[int, int] = field(repr=False)
    modes: Mapping[str, PagingMode] = field(default_factory=dict)

    def mode(self, space: str) -> PagingMode:
        """The paging mode of a space. Errors: there is none of that name."""
        if space not in self.roots:
            raise UsageError(
                f"no address space {space!r}: the machine has {', '.join(self.roots) or 'none'}"
            )
        return self.modes.get(space, PagingMode.LEVEL4)

    def gpte(self, space: str, gva: Gva, level: int = 1) -> Gpa:
        """Where the entry for ``gva`` lies, as the tables stood at the start."""
        form = FORMATS[self.mode(space)]
        table = self.roots[space]
        for upper in form.levels:
            place = entry_place(form, table, gva, upper.number)
            if upper.number == level:
                return place
            entry = self.entry(place, form.entry_bytes)
            if not entry & P:
                break
            table = Gfn(frame_of(entry))
        raise UsageError(f"{gva:#x} has no level-{level} table in space {space!r}")

    def registers(self, space: str, **controls: Any) -> PagingRegisters:
        """The registers of a processor that starts in a space; ``controls`` besides its mode's."""
        own = {"pse": True, "maxphyaddr": GUEST_MAXPHYADDR}
        state = Controls.of(self.mode(space), **{**own, **controls})
        cr3 = gfn_to_gpa(self.roots[space])
        latched = pdpte_gpas(cr3, state) if state.mode is PagingMode.PAE else ()
        return PagingRegisters(state, cr3, tuple([self.entry(gpa, ENTRY_BYTES) for gpa in latched]))

    def entry(self, gpa: int, size: int) -> int:
        """A paging entry of 4 or 8 bytes as it stood at the start."""
        return part_of(self.content.get(word_of(gpa), 0), gpa, size)


def entry_place(form: Format, table: Gfn, gva: Gva, level: int) -> Gpa:
    """Where the entry for ``gva`` lies in a table of that level."""
    _, _, shift, bits = form.level(level)
    index = gva >> shift & (1 << bits) - 1
    return Gpa(gfn_to_gpa(table) + index * form.entry_bytes)


def lay_out(
    spaces: Mapping[str, Mapping[int, Page]], modes: Mapping[str, PagingMode] | None = None
) -> Layout:
    """Build the tables of each space, of the mode that ``modes`` says (4-level without).

    Errors: a page at a gva that its mode does not have, or one that it cannot express.
    """
    return _Builder(spaces, modes or {}).built()


class _Builder:
    """Allocates tables and writes entries into ``content``."""

    def __init__(
        self, spaces: Mapping[str, Mapping[int, Page]], modes: Mapping[str, PagingMode]
    ) -> None:
        self.spaces = spaces
        self.modes = {name: modes.get(name, PagingMode.LEVEL4) for name in spaces}
        self.content: dict[int, int] = {}
        self.tables: dict[Gfn, int] = {}
        self.further = Gfn(FIRST_TABLE + FRAMES_PER_SPACE * len(spaces))

    def built(self) -> Layout:
        roots = {}
        for number, (name, pages) in enumerate(self.spaces.items()):
            form = FORMATS[self.modes[name]]
            roots[name] = self._chain(form, number, name) if form.levels else Gfn(0)
            for gva in pages:
                self._tables_for(form, roots[name], Gva(gva), name)
        tables = {gfn: self.tables[gfn] for gfn in sorted(self.tables)}
        windows = {WINDOW + gfn_to_gpa(gfn): page(gfn, user=False) for gfn in tables}
        for name, pages in self.spaces.items():
            form = FORMATS[self.modes[name]]
            for gva, mapping in {**windows, **pages}.items() if form.levels else ():
                self._map(form, roots[name], Gva(gva), mapping)
        return Layout(roots, tables, self.content, self.modes)

    def _chain(self, form: Format, number: int, name: str) -> Gfn:
        """The first table of each level, in the frames that are theirs; gives the root's."""
        last = Gfn(FIRST_TABLE + FRAMES_PER_SPACE * number + FRAMES_PER_SPACE)
        frames = [
            Gfn(last - level.number) if level.number <= FRAMES_PER_SPACE else self._further()
            for level in form.levels
        ]
        self.tables.update(dict.fromkeys(frames, form.entry_bytes))
        for level, table, below in zip(form.levels, frames, frames[1:], strict=False):
            self._write(
                form,
                entry_place(form, table, REGION, level.number),
                _link(form, level.number, below),
            )
        return frames[0]

    def _further(self) -> Gfn:
        self.further = Gfn(self.further + 1)
        return Gfn(self.further - 1)

    def _tables_for(self, form: Format, table: Gfn, gva: Gva, name: str) -> None:
        """Make the tables on the way to ``gva``."""
        if not is_canonical(gva, Controls.of(self.modes[name])):
            raise UsageError(
                f"page {gva:#x} of space {name!r}: there is no such address in its mode"
            )
        for level in form.levels[:-1]:
            place = entry_place(form, table, gva, level.number)
            if not self._read(form, place) & P:
                below = self._further()
                self.tables[below] = form.entry_bytes
                self._write(form, place, _link(form, level.number, below))
            table = Gfn(frame_of(self._read(form, place)))

    def _map(self, form: Format, table: Gfn, gva: Gva, mapping: Page) -> None:
        for level in form.levels[:-1]:
            table = Gfn(frame_of(self._read(form, entry_place(form, table, gva, level.number))))
        if mapping.no_execute and form.entry_bytes < 8:
            raise UsageError(f"page {gva:#x}: 32-bit paging cannot forbid execution")
        self._write(form, entry_place(form, table, gva, 1), mapping.entry())

    def _read(self, form: Format, gpa: Gpa) -> int:
        return part_of(self.content.get(word_of(gpa), 0), gpa, form.entry_bytes)

    def _write(self, form: Format, gpa: Gpa, entry: int) -> None:
        word = word_of(gpa)
        merged, _ = merge(self.content.get(word, 0), entry, gpa - word, form.entry_bytes)
        self.content[word] = merged


def _link(form: Format, level: int, table: Gfn) -> int:
    """An entry that leads to a table. PDPTEs of PAE have no rights and no A."""
    return make_entry(table, P if form.pdptes and level == form.root_level else P | W | U | A)
