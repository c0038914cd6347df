"""Guest page tables of a small world, laid out from a plain map of pages.

Each address space gets its own 4-level tables, in frames from ``FIRST_TABLE`` up. Every table of
every space is mapped at ``WINDOW`` + gpa, supervisor only, in every space: a guest kernel's direct
map, through which it writes its own page tables. All pages of a scenario lie in one 2M region, so
that a space has one table a level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmm.bits import NX, A, D, P, U, W, make_entry
from vmm.errors import UsageError
from vmm.units import (
    LEVEL_BITS,
    PAGE_SHIFT,
    Gfn,
    Gpa,
    Gva,
    entry_gpa,
    gfn_to_gpa,
    table_index,
)

FIRST_TABLE = Gfn(0x10)
LEVELS = 4
REGION = Gva(0x400000)
"""First byte of the 2M region that holds the pages of a small world."""
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


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies: root of each space and content of the tables (gpa to word)."""

    roots: Mapping[str, Gfn]
    tables: tuple[Gfn, ...]
    content: Mapping[int, int] = field(repr=False)

    def gpte(self, space: str, gva: Gva, level: int = 1) -> Gpa:
        """Where the entry for ``gva`` lies, as the tables stood at the start."""
        if space not in self.roots:
            raise UsageError(
                f"no address space {space!r}: the machine has {', '.join(self.roots) or 'none'}"
            )
        table = self.roots[space]
        for upper in range(LEVELS, level, -1):
            entry = self.content.get(entry_gpa(table, table_index(gva, upper)), 0)
            if not entry & P:
                raise UsageError(f"{gva:#x} has no level-{level} table in space {space!r}")
            table = Gfn(entry >> PAGE_SHIFT)
        return entry_gpa(table, table_index(gva, level))


def lay_out(spaces: Mapping[str, Mapping[int, Page]]) -> Layout:
    """Build the tables of each space. Errors: a page outside the region."""
    roots = {name: Gfn(FIRST_TABLE + LEVELS * n) for n, name in enumerate(spaces)}
    tables = tuple(Gfn(FIRST_TABLE + n) for n in range(LEVELS * len(spaces)))
    content: dict[int, int] = {}
    for name, pages in spaces.items():
        windows = {WINDOW + gfn_to_gpa(gfn): page(gfn, user=False) for gfn in tables}
        for gva, mapping in {**windows, **pages}.items():
            _map(content, roots[name], Gva(gva), mapping)
    return Layout(roots, tables, content)


def _map(content: dict[int, int], root: Gfn, gva: Gva, mapping: Page) -> None:
    if not REGION <= gva < REGION + REGION_BYTES:
        raise UsageError(
            f"page {gva:#x} lies outside {REGION:#x}..{REGION + REGION_BYTES - 1:#x}: "
            "the pages of a small world share one 2M region"
        )
    for depth, level in enumerate(range(LEVELS, 1, -1)):
        below = make_entry(root + depth + 1, P | W | U | A)
        content[entry_gpa(Gfn(root + depth), table_index(gva, level))] = below
    content[entry_gpa(Gfn(root + LEVELS - 1), table_index(gva, 1))] = mapping.entry()
