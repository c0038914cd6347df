"""What a processor may hold, against sets of all that it may hold, kept as the SDM tells it."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from vmm.bits import NX, A, D, G, P, U, W, combine, frame_of, make_entry
from vmm.engine.world import World
from vmm.hw.access import LOAD, STORE
from vmm.hw.history import (
    History,
    KnownWalks,
    Leaf,
    Lost,
    compact,
    forget_page,
    keep_global,
    leaves,
    lose,
)
from vmm.hw.paging import Controls, PagingMode, PagingRegisters
from vmm.units import Gva

ROOTS = (0x10, 0x11)
TABLES = (0x20, 0x21)
GVAS = tuple(Gva(pde << 21 | pte << 12) for pde in (0, 1) for pte in (0, 1))
ALL = P | W | U | A | D
CONTROLS = Controls.of(PagingMode.LEVEL4)


Found = set[tuple[int, int]]
"""(leaf entry, rights of the whole walk)."""


class Store(NamedTuple):
    table: int
    at: int
    entry: int


class Invlpg(NamedTuple):
    gva: Gva


class LoadCr3(NamedTuple):
    root: int


def path(gva: Gva) -> tuple[int, int]:
    return gva >> 21 & 511, gva >> 12 & 511


class Sets:
    """For each address the tables of the last level, and the translations, that may be cached."""

    def __init__(self) -> None:
        self.memory: dict[tuple[int, int], int] = {}
        self.root = ROOTS[0]
        self.prefixes: dict[Gva, set[tuple[int, int]]] = {gva: set() for gva in GVAS}
        self.leaves: dict[Gva, set[tuple[int, int]]] = {gva: set() for gva in GVAS}

    def close(self) -> None:
        for gva in GVAS:
            pde, pte = path(gva)
            entry = self.memory.get((self.root, pde), 0)
            if entry & (P | A) == P | A:
                self.prefixes[gva].add((frame_of(entry), combine(W | U, entry)))
            for table, rights in self.prefixes[gva]:
                entry = self.memory.get((table, pte), 0)
                if entry & (P | A) == P | A:
                    self.leaves[gva].add((entry, combine(rights, entry)))

    def act(self, act: Store | Invlpg | LoadCr3) -> None:
        match act:
            case Store(table, at, entry):
                self.memory[table, at] = entry
            case Invlpg(gva):
                self.prefixes = {other: set() for other in GVAS}
                self.leaves[gva] = set()
            case LoadCr3(root):
                self.root = root
                self.prefixes = {gva: set() for gva in GVAS}
                kept = {g: {found for found in self.leaves[g] if found[0] & G} for g in GVAS}
                self.leaves = kept
        self.close()


class Kept:
    """The same by a history. Levels 4 and 3 never change: a chain of two tables for each root."""

    def __init__(self, *, compacts: bool = False) -> None:
        self.compacts = compacts
        self.memory: dict[int, int] = {}
        for root in ROOTS:
            self.memory[(root + 0x100) << 12] = make_entry(root + 0x200, ALL)
            self.memory[(root + 0x200) << 12] = make_entry(root, ALL)
        self.registers = PagingRegisters(CONTROLS, (ROOTS[0] + 0x100) << 12)
        self.history: History = ()

    def act(self, act: Store | Invlpg | LoadCr3) -> None:
        match act:
            case Store(table, at, entry):
                gpa = table << 12 | at * 8
                self.history = lose(self.history, [(gpa, self.memory.get(gpa, 0), entry)])
                self.memory[gpa] = entry
            case Invlpg(gva):
                self.history = forget_page(self.history, self.registers, gva)
            case LoadCr3(root):
                self.history = keep_global(self.history, self.registers)
                if self.compacts:
                    self.history = compact(self.history, self.memory)
                self.registers = self.registers._replace(cr3=(root + 0x100) << 12)

    def leaves(self, gva: Gva) -> list[Leaf]:
        return list(leaves(self.history, self.registers, gva, self._read))

    def _read(self, gpa: int, size: int) -> int:
        assert size == 8
        return self.memory.get(gpa, 0)


def acts(*changes: int) -> st.SearchStrategy[list[Store | Invlpg | LoadCr3]]:
    """Entries are made of ``changes``: flags that may each be clear."""
    flags = st.sets(st.sampled_from(changes)).map(lambda clear: ALL & ~sum(clear))
    pde = st.builds(make_entry, st.sampled_from(TABLES), flags)
    pte = st.builds(make_entry, st.sampled_from((2, 3, 4)), st.sampled_from((0, G)) | flags)
    pte = st.one_of(pte, st.builds(make_entry, st.sampled_from((2, 3)), st.just(ALL | G)))
    index = st.sampled_from((0, 1))
    return st.lists(
        st.one_of(
            st.builds(Store, st.sampled_from(ROOTS), index, pde),
            st.builds(Store, st.sampled_from(TABLES), index, pte),
            st.builds(Store, st.sampled_from(TABLES), index, pte),
            st.builds(Invlpg, st.sampled_from(GVAS)),
            st.builds(LoadCr3, st.sampled_from(ROOTS)),
        ),
        max_size=14,
    )


def both(done: list[Store | Invlpg | LoadCr3]) -> list[tuple[Found, Found]]:
    """What the sets and the history say of each address after all that was done."""
    sets, kept = Sets(), Kept()
    sets.close()
    for act in done:
        sets.act(act)
        kept.act(act)
    return [(set(sets.leaves[g]), {(x.entry, x.rights) for x in kept.leaves(g)}) for g in GVAS]


@given(acts(P))
def test_a_history_says_what_the_sets_say(done: list[Store | Invlpg | LoadCr3]) -> None:
    for expected, found in both(done):
        assert found == expected


@given(acts(P, A, D, W, U))
def test_a_compact_history_says_the_same(done: list[Store | Invlpg | LoadCr3]) -> None:
    whole, short = Kept(), Kept(compacts=True)
    for act in (*done, LoadCr3(ROOTS[0])):
        whole.act(act)
        short.act(act)
        for gva in GVAS:
            assert set(short.leaves(gva)) == set(whole.leaves(gva))
    assert len(short.history) <= len(whole.history)


def test_loads_of_cr3_in_a_row_leave_each_root_its_own_walks() -> None:
    """The first of them ends the walks from the root that was loaded while a table changed."""
    kept = Kept()
    kept.act(Store(ROOTS[0], 0, make_entry(0x20, ALL)))
    kept.act(Store(ROOTS[1], 0, make_entry(0x20, ALL & ~U)))
    kept.act(Store(0x20, 0, make_entry(2, ALL | G)))
    kept.act(LoadCr3(ROOTS[1]))
    kept.act(Store(0x20, 0, make_entry(3, ALL | G)))
    kept.act(LoadCr3(ROOTS[0]))
    kept.act(LoadCr3(ROOTS[0]))
    assert (2, W) in [(leaf.gpa >> 12, leaf.rights) for leaf in kept.leaves(GVAS[0])]


def test_known_walks_follow_the_tables() -> None:
    world = World("known walks")
    words = world.array("word", 0)
    registers = PagingRegisters(CONTROLS, 0x110 << 12)
    path = [(0x110 << 12, 0x210), (0x210 << 12, 0x10), (0x10 << 12, 0x20), (0x20 << 12, 2)]
    values = {gpa: make_entry(frame, ALL) for gpa, frame in path}
    known = KnownWalks(lambda gpa: words[gpa])

    def leaf() -> int | None:
        found = known.leaf(registers, Gva(8), lambda cell: values.get(cell.key, 0))  # type: ignore[call-overload]
        return None if found is None else found.gpa

    assert (leaf(), leaf()) == (2 << 12, 2 << 12)
    for gpa in list(values):
        before, values[gpa] = values[gpa], 0
        assert (leaf(), leaf()) == (None, None)
        values[gpa] = before
        assert leaf() == 2 << 12
    registers = registers._replace(cr3=0x210 << 12)
    assert leaf() is None


def test_a_compact_history_keeps_global_pages_alone() -> None:
    kept = Kept(compacts=True)
    for table, index, entry in ((0x20, 0, ALL), (0x20, 1, ALL | G), (0x10, 0, ALL)):
        kept.act(Store(table, index, make_entry(0x20 if table == 0x10 else 2, entry)))
    for index in (0, 1):
        kept.act(Store(0x20, index, 0))
    for root in (*ROOTS, ROOTS[0]):
        kept.act(LoadCr3(root))
    (lost,) = [item for item in kept.history if isinstance(item, Lost)]
    assert [gpa for gpa, _ in lost.values] == [0x20008]


@given(acts(P, A, D, W, U))
def test_with_stores_that_only_add_it_says_no_less(done: list[Store | Invlpg | LoadCr3]) -> None:
    for expected, found in both(done):
        gained = {(entry & ~(A | D | W), rights & ~W) for entry, rights in found}
        assert {(entry & ~(A | D | W), rights & ~W) for entry, rights in expected} <= gained


def test_a_fresh_upper_entry_does_not_lead_to_a_stale_lower_one() -> None:
    kept = Kept()
    kept.act(Store(0x20, 0, make_entry(2, ALL)))
    kept.act(Store(0x20, 0, make_entry(3, ALL)))
    kept.act(Store(0x10, 0, make_entry(0x20, ALL)))
    assert [leaf.gpa >> 12 for leaf in kept.leaves(GVAS[0])] == [3]


def test_a_stale_upper_entry_leads_to_a_fresh_lower_one() -> None:
    kept = Kept()
    kept.act(Store(0x20, 0, make_entry(2, ALL)))
    kept.act(Store(0x10, 0, make_entry(0x20, ALL)))
    kept.act(Store(0x10, 0, 0))
    kept.act(Store(0x20, 0, make_entry(3, ALL)))
    assert sorted(leaf.gpa >> 12 for leaf in kept.leaves(GVAS[0])) == [2, 3]
    kept.act(Invlpg(GVAS[0]))
    assert kept.leaves(GVAS[0]) == []


def test_invlpg_of_another_page_leaves_what_was_complete() -> None:
    kept = Kept()
    kept.act(Store(0x20, 1, make_entry(2, ALL)))
    kept.act(Store(0x10, 0, make_entry(0x20, ALL)))
    kept.act(Store(0x10, 0, 0))
    kept.act(Invlpg(GVAS[0]))
    kept.act(Store(0x20, 1, make_entry(3, ALL)))
    assert [leaf.gpa >> 12 for leaf in kept.leaves(GVAS[1])] == [2]


def test_a_write_needs_an_entry_that_is_dirty() -> None:
    kept = Kept()
    kept.act(Store(0x10, 0, make_entry(0x20, ALL)))
    kept.act(Store(0x20, 0, make_entry(2, ALL & ~D)))
    (leaf,) = kept.leaves(GVAS[0])
    assert leaf.permits(LOAD, kept.registers)
    assert not leaf.permits(STORE, kept.registers)


ENTRIES = st.sampled_from([0, *[make_entry(f, r) for f in (2, 3) for r in (ALL, ALL & ~A, P)]])


@given(st.lists(st.tuples(st.sampled_from(TABLES), st.integers(0, 2), ENTRIES, ENTRIES)))
def test_stores_at_once_are_stores_one_after_the_other(
    stores: list[tuple[int, int, int, int]],
) -> None:
    words = [(table << 12 | at * 8, old, new) for table, at, old, new in stores]
    one_by_one: History = ()
    for word in words:
        one_by_one = lose(one_by_one, [word])
    assert lose((), words) == one_by_one
    assert lose(lose((), words), words) == lose((), words * 2)


def test_what_cannot_matter_leaves_no_trace() -> None:
    assert lose((), [(0x1000, 0, make_entry(2, ALL))]) == ()
    assert lose((), [(0x1000, make_entry(2, P), make_entry(3, ALL))]) == (), "A was clear"
    assert lose((), [(0x1000, make_entry(2, P | A), make_entry(2, ALL & ~U))]) == ()
    assert lose((), [(0x1000, make_entry(2, ALL | NX), make_entry(2, ALL))]) == ()
    old = make_entry(2, ALL)
    assert lose((), [(0x1000, old, 0)]) == (Lost(1, ((0x1000, (old,)),)),)  # type: ignore[arg-type]
    assert forget_page((), PagingRegisters(CONTROLS, 0), GVAS[0]) == ()
