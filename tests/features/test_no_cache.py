"""The MMU of before January 2007: a software TLB that may be behind, but only so long."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from vmm.bits import P
from vmm.hw.access import GuestFault
from vmm.hw.layout import REGION, page
from vmm.mmu.api import EmulatedStore
from vmm.units import Gva, entry_gpa
from vmm.vcpu.events import Exit

DATA, OTHER = REGION, Gva(REGION + 0x1000)
OLD, NEW = 22, 44


def machine(vcpus: int = 1) -> Bench:
    made = bench(
        {"A": {DATA: page(2), OTHER: page(3)}, "B": {DATA: page(4)}},
        vcpus=vcpus,
        features=("no-cache",),
        shadow_pages=24,
    )
    made.poke(2 << 12, OLD)
    made.poke(4 << 12, NEW)
    for guest in made.guests:
        assert made.do(guest.load(DATA), guest.number) == OLD
    return made


def moved(made: Bench) -> None:
    assert made.do(made.guest.store_pte(DATA, frame=4)) is None


def exits(made: Bench) -> list[str]:
    return [event.reason for event in made.hand.said(Exit)]


def test_guest_tables_are_written_without_a_trap() -> None:
    made = machine()
    made.do(made.guest.store_pte(OTHER, frame=5))
    before = len(exits(made))
    moved(made)
    assert exits(made)[before:] == []
    assert not made.hand.said(EmulatedStore)


def test_a_translation_is_old_until_invlpg() -> None:
    made = machine()
    moved(made)
    for made.hand.branch in (0, 1):  # from the TLB, and by a walk of the shadow
        assert made.do(made.guest.load(DATA)) == OLD
    made.do(made.guest.invlpg(DATA))
    assert exits(made)[-1] == "invlpg"
    for made.hand.branch in (0, 1):
        assert made.do(made.guest.load(DATA)) == NEW


def test_invlpg_of_another_page_leaves_it_old() -> None:
    made = machine()
    moved(made)
    made.do(made.guest.invlpg(OTHER))
    assert made.do(made.guest.load(DATA)) == OLD


@pytest.mark.parametrize("space", ["A", "B"])
def test_a_cr3_load_drops_everything(space: str) -> None:
    made = machine()
    made.do(made.guest.load(OTHER))
    moved(made)
    made.do(made.guest.mov_cr3(space))
    assert made.leaves() == {}
    assert made.hand[made.vm.mmu.cache.active] == ()
    for made.hand.branch in (0, 1):
        assert made.do(made.guest.load(DATA)) == NEW


def test_each_vcpu_has_pages_of_its_own() -> None:
    made = machine(vcpus=2)
    headers = [made.hand[made.vm.mmu.cache.pages[n].header] for n in (0, 4)]
    assert [(header.gfn, header.role.owner) for header in headers] == [(0x10, 1), (0x10, 2)]
    made.do(made.vm.loop.leave(made.vm.vcpus[1], "test"))
    made.do(made.guest.mov_cr3("B"))
    owners = [made.hand[made.vm.mmu.cache.pages[n].header].role.owner
              for n in made.hand[made.vm.mmu.cache.active]]  # fmt: skip
    assert owners == [2, 2, 2, 2]


def test_more_rights_are_seen_at_once() -> None:
    """A fault walks the guest's tables afresh: what is not cached cannot be old."""
    made = machine()
    made.do(made.guest.store_pte(OTHER, frame=3, writable=False))
    assert made.do(made.guest.store(OTHER, 1)) == GuestFault(OTHER, 3)
    made.do(made.guest.store_pte(OTHER, frame=3))
    assert made.do(made.guest.store(OTHER, 1)) is None


def test_an_upper_entry_is_old_until_it_is_invalidated() -> None:
    made = machine()
    gpte = made.vm.layout.gpte("A", DATA, 2)
    made.poke(gpte, made.word(gpte) & ~P)
    assert made.do(made.guest.load(DATA)) == OLD
    made.do(made.guest.invlpg(DATA))
    assert made.do(made.guest.load(DATA)) == GuestFault(DATA, 0)
    assert gpte == entry_gpa(list(made.vm.layout.tables)[2], 2)
