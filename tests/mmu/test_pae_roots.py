"""Four roots for a guest in PAE mode: the tables that its latched PDPTEs name."""

from __future__ import annotations

from tests.hand import Bench, bench
from vmm.bits import P, make_entry
from vmm.hw.layout import REGION, lay_out, page
from vmm.hw.paging import PagingMode
from vmm.mmu.api import NO_PAGE

PDPT, PD, LEAF = 0x11, 0x12, 0x13
"""Frames of the tables of space A, by level."""


def machine() -> Bench:
    spaces = {"A": {int(REGION): page(2)}, "B": {int(REGION): page(3)}}
    return bench(tables=lay_out(spaces, dict.fromkeys(spaces, PagingMode.PAE)))


def pdpte(made: Bench, slot: int = 0) -> int:
    return int(made.vm.layout.gpte("A", REGION, 3)) + 8 * slot


def test_each_present_pdpte_has_a_root_and_the_partial_page_of_the_pdptes_is_not_shadowed() -> None:
    made = machine()
    root = made.do(made.vm.mmu.roots.load(made.vcpu))
    assert root.level == 2
    assert [number != NO_PAGE for number in root.pages] == [True, False, False, False]
    assert made.pages(PD) == [root.pages[0]]
    assert made.pages(PDPT) == []


def test_a_fault_begins_at_the_root_of_its_quarter() -> None:
    made = machine()
    made.poke(pdpte(made, 1), make_entry(PD, P))
    made.do(made.guest.mov_cr3("A"))
    far = REGION + (1 << 30)
    assert made.do(made.guest.load(far)) == made.do(made.guest.load(REGION))
    first, second, *others = made.hand[made.vcpu.root].pages
    assert first == second, "two PDPTEs name one table, which has one shadow"
    assert others == [NO_PAGE, NO_PAGE]
    assert made.hand[made.vm.mmu.cache.pages[first].root_count] == 2
    assert len(made.pages(LEAF)) == 1


def test_pdptes_are_loaded_by_mov_cr3_and_not_by_a_walk() -> None:
    made = machine()
    made.poke((2 << 12), 22)
    made.poke((3 << 12), 33)
    assert made.do(made.guest.load(REGION)) == 22
    other = made.word(int(made.vm.layout.gpte("B", REGION, 3)))
    made.poke(pdpte(made), other)
    made.do(made.guest.invlpg(REGION))
    assert made.do(made.guest.load(REGION)) == 22
    made.do(made.guest.mov_cr3("A"))
    assert made.do(made.guest.load(REGION)) == 33
