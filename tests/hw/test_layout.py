"""Guest page tables made from a plain map of pages, read back by an independent walker."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm.bits import A, D, P
from vmm.errors import UsageError
from vmm.hw.layout import FIRST_TABLE, REGION, REGION_BYTES, WINDOW, Layout, Page, lay_out, page
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


@settings(max_examples=60, deadline=None)
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


@pytest.mark.parametrize("gva", [0, REGION - PAGE_BYTES, REGION + REGION_BYTES])
def test_a_page_outside_the_region_is_refused(gva: int) -> None:
    with pytest.raises(UsageError, match="share one 2M region"):
        lay_out({"A": {gva: page(1)}})


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
