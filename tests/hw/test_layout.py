"""Guest page tables made from a plain map of pages, read back by an independent walker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hand import Hand
from vmm.bits import A, D, P, W
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.hw.access import LOAD, GuestFault
from vmm.hw.layout import (
    FIRST_TABLE,
    MODES,
    PAGED_MODES,
    REGION,
    REGION_BYTES,
    WINDOW,
    Layout,
    Page,
    lay_out,
    page,
)
from vmm.hw.memory import Memory
from vmm.hw.paging import FORMATS
from vmm.hw.walker import Walk, Walker
from vmm.units import ENTRY_BYTES, PAGE_BYTES, Gva
from vmm.workload.tables import GuestTables


def read(layout: Layout) -> GuestTables:
    tables = GuestTables()
    for gpa, word in layout.content.items():
        tables.store(gpa, ENTRY_BYTES, word)
    return tables


gvas = st.integers(0, 255).map(lambda n: REGION + n * PAGE_BYTES)
mappings = st.builds(
    Page, st.integers(0, 0x3FF), st.booleans(), st.booleans(), st.booleans(), st.booleans()
)
spaces = st.dictionaries(
    st.sampled_from("ABC"), st.dictionaries(gvas, mappings, max_size=6), min_size=1
)


@given(spaces)
def test_every_page_is_mapped_as_asked_and_nothing_else(
    asked: dict[str, dict[int, Page]],
) -> None:
    layout = lay_out(asked)
    tables = read(layout)
    windows = {WINDOW + gfn * PAGE_BYTES: page(gfn, user=False) for gfn in layout.tables}
    for name, pages in asked.items():
        expected = {**windows, **pages}
        root = layout.roots[name]
        assert sorted(leaf.gva for leaf in tables.leaves(root)) == sorted(expected)
        for gva, mapping in expected.items():
            found = tables.walk(root << 12, gva)
            assert found is not None
            assert found.gpa == mapping.frame * PAGE_BYTES
            assert found.rights == (mapping.writable, mapping.user, mapping.no_execute)
            assert bool(found.entry & D) == bool(found.entry & A) == (not mapping.fresh)
            assert layout.gpte(name, Gva(gva)) == found.path[-1][0]
            assert all(upper & A for _, upper in found.path[:-1])


def test_spaces_share_no_table() -> None:
    layout = lay_out({"A": {REGION: page(1)}, "B": {REGION: page(2)}})
    assert layout.roots == {"A": FIRST_TABLE, "B": FIRST_TABLE + 4}
    assert len(layout.tables) == len(dict.fromkeys(layout.tables)) == 8
    upper = {name: [layout.gpte(name, Gva(REGION), level) >> 12 for level in (4, 3, 2, 1)]
             for name in "AB"}  # fmt: skip
    assert upper == {"A": [0x10, 0x11, 0x12, 0x13], "B": [0x14, 0x15, 0x16, 0x17]}


@pytest.mark.parametrize(
    ("mode", "gva"),
    [("32-bit", 1 << 32), ("pae", 1 << 32), ("4-level", 1 << 47), ("5-level", 1 << 56)],
)
def test_a_page_at_no_address_of_its_mode_is_refused(mode: str, gva: int) -> None:
    with pytest.raises(UsageError, match="no such address"):
        lay_out({"A": {gva: page(1)}}, {"A": MODES[mode]})


def test_32_bit_paging_cannot_forbid_execution() -> None:
    with pytest.raises(UsageError, match="cannot forbid execution"):
        lay_out({"A": {REGION: page(1, no_execute=True)}}, {"A": MODES["32-bit"]})


@pytest.mark.parametrize("mode", PAGED_MODES)
def test_the_first_tables_lie_in_the_same_frames_in_every_mode(mode: str) -> None:
    layout = lay_out(
        {"A": {REGION: page(1)}, "B": {REGION: page(2)}}, dict.fromkeys("AB", MODES[mode])
    )
    levels = range(1, min(4, FORMATS[MODES[mode]].root_level) + 1)
    for number, name in enumerate("AB"):
        for level in levels:
            place = layout.gpte(name, REGION, level)
            assert place >> 12 == FIRST_TABLE + 4 * number + 4 - level


@pytest.mark.parametrize("mode", PAGED_MODES)
def test_each_mode_maps_what_was_asked(mode: str) -> None:
    """Read back by the walker that follows the rule table."""
    far = Gva(3 << 30)
    pages = {REGION: page(2), far: page(3, writable=False), REGION + 0x1000: page(4, fresh=True)}
    layout = lay_out({"A": pages}, {"A": MODES[mode]})
    world = World()
    walker = Walker(Memory(world, layout.content, layout.tables))
    registers = layout.registers("A")
    for gva, mapping in pages.items():
        found = Hand(world).do(walker.translate(registers, Gva(gva), LOAD))
        assert isinstance(found, Walk)
        assert found.gpa == mapping.frame * PAGE_BYTES
        assert bool(found.steps[-1].access & W) == mapping.writable
    missing = Hand(world).do(walker.translate(registers, Gva(far + PAGE_BYTES), LOAD))
    assert missing == GuestFault(far + PAGE_BYTES, 0)


def test_a_space_without_paging_has_no_tables() -> None:
    layout = lay_out({"A": {REGION: page(2)}}, {"A": MODES["real"]})
    assert (layout.tables, layout.content) == ({}, {})
    with pytest.raises(UsageError, match="no level-1 table"):
        layout.gpte("A", REGION)


def test_an_unknown_space_is_told_with_those_there_are() -> None:
    layout = lay_out({"A": {REGION: page(1)}})
    with pytest.raises(UsageError, match="no address space 'B': the machine has A"):
        layout.gpte("B", Gva(REGION))


def test_a_gva_without_tables_has_no_entry() -> None:
    layout = lay_out({"A": {REGION: page(1)}})
    with pytest.raises(UsageError, match="no level-1 table in space 'A'"):
        layout.gpte("A", Gva(REGION + REGION_BYTES))
    assert layout.gpte("A", Gva(REGION + PAGE_BYTES)) not in layout.content  # a table, no entry


def test_a_present_entry_has_its_bits() -> None:
    assert Page(3).entry() & (P | A | D) == P | A | D
    assert Page(3, fresh=True).entry() & (P | A | D) == P
