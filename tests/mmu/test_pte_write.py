"""Emulated stores to guest tables, and how the shadow follows them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from vmm.bits import NX, A, D, P, U, W, frame_of, make_entry
from vmm.engine.events import Goal
from vmm.engine.ops import Acquire
from vmm.hw.access import LOAD, STORE
from vmm.hw.layout import REGION, page
from vmm.mmu.api import EmulatedStore, EmulatedStoreDone, LastPtWrite
from vmm.mmu.spte import make_leaf
from vmm.units import Gfn, Gpa, Gva, Pfn, entry_gpa
from vmm.vcpu.requests import TLB_FLUSH

DATA, OTHER = REGION, Gva(REGION + 0x1000)
ALL = P | W | U | A | D


def machine(**config: Any) -> Bench:
    """Two vCPUs in a space whose tables are shadowed, with DATA and OTHER mapped."""
    made = bench({"A": {DATA: page(2), OTHER: page(3)}, "B": {DATA: page(2)}}, vcpus=2, **config)
    for vcpu in made.vm.vcpus:
        made.do(made.vm.mmu.roots.load(vcpu))
    for gva in (DATA, OTHER):
        made.do(made.vm.mmu.fault.page_fault(made.vcpu, gva, STORE))
    forget_flushes(made)
    return made


def forget_flushes(made: Bench) -> None:
    for vcpu in made.vm.vcpus:
        made.hand[vcpu.requests] = 0


def flushed(made: Bench) -> bool:
    return bool(made.hand[made.vm.vcpus[1].requests] & TLB_FLUSH)


def store(made: Bench, gpa: int, value: int, size: int = 8, vcpu: int = 0) -> None:
    made.do(made.vm.mmu.pte_write.emulated_store(made.vm.vcpus[vcpu], Gpa(gpa), value, size))


def gpte(made: Bench, gva: Gva = DATA, level: int = 1) -> Gpa:
    return made.vm.layout.gpte("A", gva, level)


def leaf(made: Bench, index: int = 0) -> int:
    (number,) = made.pages(0x13)
    return made.spte(number, index)


def goals(made: Bench) -> list[str]:
    return [goal.name for goal in made.hand.said(Goal)]


# --- one entry ---


@pytest.mark.parametrize(
    ("flags", "frame", "flush"),
    [
        (ALL, 4, True),
        (ALL & ~W, 2, True),
        (ALL & ~U, 2, True),
        (ALL | NX, 2, True),
        (ALL & ~D, 2, True),  # W is taken away until the next store
        (ALL, 2, False),
    ],
)
def test_a_leaf_is_updated_at_once(flags: int, frame: int, flush: bool) -> None:
    made = machine()
    store(made, gpte(made), make_entry(frame, flags))
    writable = flags & D and flags & W
    assert leaf(made) == make_leaf(Pfn(frame), flags & (U | NX), writable=bool(writable))
    assert made.word(gpte(made)) == make_entry(frame, flags)
    assert flushed(made) == flush


def test_more_rights_need_no_flush() -> None:
    made = machine()
    store(made, gpte(made), make_entry(2, ALL & ~(W | U) | NX))
    forget_flushes(made)
    store(made, gpte(made), make_entry(2, ALL))
    assert leaf(made) == make_leaf(Pfn(2), W | U, writable=True)
    assert not flushed(made)


@pytest.mark.parametrize("entry", [0, make_entry(2, ALL & ~A), make_entry(2, ALL & ~P)])
def test_an_entry_that_must_fault_next_is_dropped(entry: int) -> None:
    made = machine()
    store(made, gpte(made), entry)
    assert leaf(made) == 0
    assert made.hand[made.vm.mmu.rmap.chains[Gfn(2)]] == ()
    assert flushed(made)


def test_an_entry_that_was_missing_is_installed_without_a_flush() -> None:
    made = machine()
    store(made, entry_gpa(Gfn(0x13), 9), make_entry(5, ALL))
    assert frame_of(leaf(made, 9)) == 5
    assert not flushed(made)


def test_the_neighbours_stay() -> None:
    made = machine()
    before = leaf(made, 1)
    store(made, gpte(made), 0)
    assert leaf(made, 1) == before


def test_an_upper_entry_is_dropped_and_built_again_by_a_fault() -> None:
    made = machine()
    store(made, gpte(made, level=2), make_entry(0x17, P | W | U | A))
    (upper,) = made.pages(0x12)
    assert made.spte(upper, 2) == 0
    assert made.hand[made.vm.mmu.cache.pages[made.pages(0x13)[0]].parents] == ()
    assert flushed(made)


def test_every_shadow_of_a_table_follows() -> None:
    """The table is linked under a writable and a read-only entry."""
    made = machine()
    made.poke(entry_gpa(Gfn(0x12), 3), make_entry(0x13, P | U | A))
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, Gva(DATA + (1 << 21)), LOAD))
    one, two = made.pages(0x13)
    store(made, gpte(made), make_entry(4, ALL))
    sptes = [made.spte(number, 0) for number in (one, two)]
    assert [frame_of(spte) for spte in sptes] == [4, 4]
    assert sorted(spte & W for spte in sptes) == [0, W]


def test_with_host_paging_the_entry_is_dropped_since_nobody_holds_the_frame() -> None:
    made = machine(features=("host-paging",))
    store(made, gpte(made), make_entry(4, ALL))
    assert leaf(made) == 0


def test_a_table_that_is_not_shadowed_is_just_stored_to() -> None:
    made = machine()
    target = made.vm.layout.gpte("B", DATA)
    before = made.leaves()
    store(made, target, make_entry(7, ALL))
    assert made.word(target) == make_entry(7, ALL)
    assert made.leaves() == before


# --- sizes ---


def test_half_an_entry_updates_it() -> None:
    made = machine()
    store(made, gpte(made), make_entry(6, ALL), 4)
    assert frame_of(leaf(made)) == 6
    store(made, gpte(made) + 4, NX >> 32, 4)
    assert leaf(made) & NX


@pytest.mark.parametrize("size", [1, 2])
def test_a_sliver_zaps_the_page(size: int) -> None:
    made = machine()
    store(made, gpte(made), P | A, size)
    assert made.pages(0x13) == []
    assert flushed(made)
    mask = (1 << 8 * size) - 1
    assert made.word(gpte(made)) == make_entry(2, ALL) & ~mask | P | A


# --- two stores at once ---


def test_the_shadow_takes_what_memory_holds_under_the_lock() -> None:
    made = machine()
    write = made.vm.mmu.pte_write.emulated_store
    one = made.hand.start(write(made.vm.vcpus[0], gpte(made), make_entry(4, ALL), 8), 0)
    two = made.hand.start(write(made.vm.vcpus[1], gpte(made), make_entry(5, ALL), 8), 1)
    for doing in (one, two):
        doing.until(lambda op: isinstance(op, Acquire))
    two.finish()
    one.finish()
    assert made.word(gpte(made)) == make_entry(5, ALL)
    assert frame_of(leaf(made)) == 5


def test_a_store_is_open_from_memory_to_the_release() -> None:
    made = machine()
    store(made, gpte(made), make_entry(4, ALL))
    (begun,), (done,) = made.hand.said(EmulatedStore), made.hand.said(EmulatedStoreDone)
    assert (begun.gpa, begun.vcpu) == (done.gpa, done.vcpu) == (gpte(made), 0)
    assert made.hand.events.index(begun) < made.hand.events.index(done)
    assert made.hand[made.vm.mmu.lock] == 0


# --- floods ---


def test_the_third_store_in_a_row_zaps_the_table() -> None:
    made = machine()
    for count in (1, 2):
        store(made, gpte(made), make_entry(4, ALL))
        assert made.hand[made.vcpu.last_pt_write] == LastPtWrite(0x13, count)
        assert made.pages(0x13) != []
    store(made, gpte(made, OTHER), make_entry(4, ALL))
    assert made.pages(0x13) == []
    assert "write flood" in goals(made)
    assert flushed(made)


def test_the_row_goes_on_after_the_zap() -> None:
    made = machine()
    for _ in range(4):
        store(made, gpte(made), make_entry(4, ALL))
    assert made.hand[made.vcpu.last_pt_write] == LastPtWrite(0x13, 3)


def test_a_store_to_another_table_begins_a_new_row() -> None:
    made = machine()
    for target in (gpte(made), gpte(made), gpte(made, level=2), gpte(made), gpte(made)):
        store(made, target, make_entry(0x13, P | W | U | A))
    assert "write flood" not in goals(made)


def test_each_vcpu_counts_its_own_row() -> None:
    made = machine()
    for vcpu in (0, 1, 0, 1):
        store(made, gpte(made), make_entry(4, ALL), vcpu=vcpu)
    assert "write flood" not in goals(made)


def test_a_fault_in_between_begins_a_new_row() -> None:
    made = machine()
    for _ in range(3):
        store(made, gpte(made), make_entry(4, ALL))
        made.do(made.vm.mmu.fault.page_fault(made.vcpu, OTHER, LOAD))
    assert "write flood" not in goals(made)


def test_a_flooded_root_in_use_is_emptied_and_stays() -> None:
    made = machine()
    top = gpte(made, level=4)
    for _ in range(3):
        store(made, top, make_entry(0x11, P | W | U | A))
    (root,) = made.pages(0x10)
    assert made.hand[made.vcpu.root].pages == (root,)
    assert made.hand[made.vm.mmu.cache.pages[root].present] == ()
