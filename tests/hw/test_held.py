"""What a processor with PCIDs may hold, against sets of it, kept as the SDM tells it."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hw.test_history import ALL, CONTROLS, GVAS, ROOTS, TABLES, Invlpg, Store, path
from vmm.bits import A, G, P, U, W, combine, frame_of, make_entry
from vmm.hw.events import Invpcid, InvpcidType, RegistersWritten
from vmm.hw.held import Cached
from vmm.hw.paging import PagingRegisters
from vmm.units import Gva

PCIDS = (1, 2)


class Switch(NamedTuple):
    """MOV CR3."""

    root: int
    pcid: int
    keeps: bool


class Invalidate(NamedTuple):
    """INVPCID."""

    what: InvpcidType
    pcid: int
    gva: Gva


Act = Store | Invlpg | Switch | Invalidate
Found = set[tuple[int, int]]
"""(entry, rights) of translations, or (table, rights) of what leads to them."""


class Sets:
    """For each PCID and address: the tables of the last level, and the translations."""

    def __init__(self) -> None:
        self.memory: dict[tuple[int, int], int] = {}
        self.root, self.pcid = ROOTS[0], PCIDS[0]
        self.prefixes: dict[tuple[int, Gva], Found] = {(p, g): set() for p in PCIDS for g in GVAS}
        self.leaves: dict[tuple[int, Gva], Found] = {(p, g): set() for p in PCIDS for g in GVAS}

    def close(self) -> None:
        """Add what can be cached now: of the PCID in use."""
        for gva in GVAS:
            pde, pte = path(gva)
            prefixes, found = self.prefixes[self.pcid, gva], self.leaves[self.pcid, gva]
            entry = self.memory.get((self.root, pde), 0)
            if entry & (P | A) == P | A:
                prefixes.add((frame_of(entry), combine(W | U, entry)))
            for table, rights in prefixes:
                entry = self.memory.get((table, pte), 0)
                if entry & (P | A) == P | A:
                    found.add((entry, combine(rights, entry)))

    def forget(self, pcid: int, *, and_global: bool = False) -> None:
        for gva in GVAS:
            self.prefixes[pcid, gva] = set()
            self.leaves[pcid, gva] = {
                found for found in self.leaves[pcid, gva] if found[0] & G and not and_global
            }

    def act(self, act: Act) -> None:
        match act:
            case Store(table, at, entry):
                self.memory[table, at] = entry
            case Invlpg(gva):
                self.prefixes.update({(self.pcid, g): set() for g in GVAS})
                self.leaves[self.pcid, gva] = set()
                for pcid in PCIDS:
                    self.leaves[pcid, gva] = {f for f in self.leaves[pcid, gva] if not f[0] & G}
            case Switch(root, pcid, keeps):
                self.root, self.pcid = root, pcid
                if not keeps:
                    self.forget(pcid)
            case Invalidate(InvpcidType.ADDRESS, pcid, gva):
                self.prefixes.update({(pcid, g): set() for g in GVAS})
                self.leaves[pcid, gva] = {f for f in self.leaves[pcid, gva] if f[0] & G}
            case Invalidate(what, pcid, _):
                for each in (pcid,) if what is InvpcidType.PCID else PCIDS:
                    self.forget(each, and_global=what is InvpcidType.ALL)
        self.close()

    def usable(self, gva: Gva) -> Found:
        shared = {f for pcid in PCIDS for f in self.leaves[pcid, gva] if f[0] & G}
        return self.leaves[self.pcid, gva] | shared


class Kept:
    """The same by what ``vmm.hw.held`` keeps."""

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}
        for root in ROOTS:
            self.memory[(root + 0x100) << 12] = make_entry(root + 0x200, ALL)
            self.memory[(root + 0x200) << 12] = make_entry(root, ALL)
        self.pcid = PCIDS[0]
        self.registers = PagingRegisters(CONTROLS, (ROOTS[0] + 0x100) << 12 | self.pcid)
        self.cached = Cached()

    def act(self, act: Act) -> None:
        match act:
            case Store(table, at, entry):
                gpa = table << 12 | at * 8
                old, self.memory[gpa] = self.memory.get(gpa, 0), entry
                self.cached = self.cached.lose(CONTROLS, [(gpa, old, entry)])
            case Invlpg(gva):
                self.cached = self.cached.invlpg(self.registers, gva)
            case Switch(root, pcid, keeps):
                new = self.registers._replace(cr3=(root + 0x100) << 12 | pcid)
                event = RegistersWritten(
                    0, self.registers, new, mov_cr3=True, pcids=(self.pcid, pcid), keeps=keeps
                )
                self.cached = self.cached.written(event, has_global=True)
                self.registers, self.pcid = new, pcid
            case Invalidate(what, pcid, gva):
                done = Invpcid(0, what, pcid, gva, self.pcid)
                self.cached = self.cached.invpcid(done, self.registers, has_global=True)

    def usable(self, gva: Gva) -> Found:
        found = self.cached.leaves(self.registers, gva, lambda gpa, _: self.memory.get(gpa, 0))
        return {(leaf.entry, leaf.rights) for leaf, _ in found}


def acts(*, has_global: bool) -> st.SearchStrategy[list[Act]]:
    """With global pages and no INVLPG, or the other way round: both is allowed too little of."""
    index, pcid = st.sampled_from((0, 1)), st.sampled_from(PCIDS)
    frame = st.sampled_from((2, 3, 4))
    pte = st.builds(make_entry, frame, st.sampled_from((0, ALL, ALL | (G if has_global else 0))))
    pde = st.builds(make_entry, st.sampled_from(TABLES), st.sampled_from((0, ALL, ALL)))
    return st.lists(
        st.one_of(
            st.builds(Store, st.sampled_from(ROOTS), index, pde),
            st.builds(Store, st.sampled_from(TABLES), index, pte),
            *([] if has_global else [st.builds(Invlpg, st.sampled_from(GVAS))]),
            st.builds(Switch, st.sampled_from(ROOTS), pcid, st.booleans()),
            st.builds(Invalidate, st.sampled_from(InvpcidType), pcid, st.sampled_from(GVAS)),
        ),
        max_size=14,
    )


def both(done: list[Act]) -> list[tuple[Found, Found]]:
    sets, kept = Sets(), Kept()
    sets.close()
    for act in done:
        sets.act(act)
        kept.act(act)
    return [(sets.usable(gva), kept.usable(gva)) for gva in GVAS]


@given(st.one_of(acts(has_global=True), acts(has_global=False)))
def test_all_that_may_be_held_is_allowed(done: list[Act]) -> None:
    for expected, found in both(done):
        assert found >= expected


LEAF = Store(TABLES[0], 0, make_entry(2, ALL))
SETUP: list[Act] = [Store(ROOTS[0], 0, make_entry(TABLES[0], ALL)), LEAF]
ELSEWHERE = Switch(ROOTS[1], PCIDS[1], keeps=True)
BACK = Switch(ROOTS[0], PCIDS[0], keeps=True)
REMAP = Store(TABLES[0], 0, make_entry(3, ALL))


@pytest.mark.parametrize(
    "done",
    [
        [REMAP, Switch(ROOTS[0], PCIDS[0], keeps=False)],
        [ELSEWHERE, REMAP, Switch(ROOTS[0], PCIDS[0], keeps=False)],
        [ELSEWHERE, REMAP, Invalidate(InvpcidType.PCID, PCIDS[0], GVAS[0]), BACK],
        [REMAP, ELSEWHERE, Invalidate(InvpcidType.ALL, PCIDS[1], GVAS[0]), BACK],
        [REMAP, ELSEWHERE, Invalidate(InvpcidType.ALL_NON_GLOBAL, PCIDS[1], GVAS[0]), BACK],
    ],
)
def test_what_was_invalidated_is_not_held(done: list[Act]) -> None:
    for expected, found in both([*SETUP, *done]):
        assert found == expected
    assert (make_entry(2, ALL), W | U) not in both([*SETUP, *done])[0][1]


@pytest.mark.parametrize(
    "done",
    [
        [REMAP, Switch(ROOTS[0], PCIDS[0], keeps=True)],
        [ELSEWHERE, REMAP, BACK],
        [ELSEWHERE, REMAP, Invlpg(GVAS[0]), BACK],
        [ELSEWHERE, REMAP, Invalidate(InvpcidType.PCID, PCIDS[1], GVAS[0]), BACK],
    ],
)
def test_what_was_not_invalidated_is_held(done: list[Act]) -> None:
    assert (make_entry(2, ALL), W | U) in both([*SETUP, *done])[0][1]


def test_invlpg_drops_a_global_page_of_every_pcid() -> None:
    old = make_entry(2, ALL | G)
    setup: list[Act] = [SETUP[0], Store(TABLES[0], 0, old), ELSEWHERE]
    assert (old, W | U) in both(setup)[0][1]
    done: list[Act] = [*setup, REMAP, Invlpg(GVAS[0])]
    assert both(done)[0] == (set(), set())
    assert (old, W | U) not in both([*done, BACK])[0][1]
