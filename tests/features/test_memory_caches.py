"""Objects lie ready before mmu_lock is taken; without memory nothing of the MMU changes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from vmm.bits import A, P, U, W, make_entry
from vmm.engine.events import Goal
from vmm.errors import InternalError, UsageError
from vmm.features.memory_caches import MINIMUM, OBJECTS, Caches, Memslots, Vcpu
from vmm.hw.access import LOAD, STORE
from vmm.hw.layout import REGION, page
from vmm.mmu.api import NO_ROOT, FaultResult
from vmm.units import Gva
from vmm.vcpu.events import UserExit

PAGES = tuple(Gva(REGION + n * 0x1000) for n in range(10))
FULL = Caches(OBJECTS, OBJECTS)


def machine(**config: Any) -> Bench:
    """Ten pages that all lie in one frame."""
    return bench({"A": {gva: page(2) for gva in PAGES}}, features=("memory-caches",), **config)


def loaded() -> Bench:
    made = machine()
    made.do(made.vm.mmu.roots.load(made.vcpu))
    return made


def caches(made: Bench) -> Caches:
    assert isinstance(made.vcpu, Vcpu)
    found: Caches = made.hand[made.vcpu.caches]
    return found


def run_short(made: Bench, allocations: int) -> None:
    made.do(made.host.run_short(allocations), 1)


def failing(made: Bench) -> int:
    assert isinstance(made.vm.mmu.slots, Memslots)
    found: int = made.hand[made.vm.mmu.slots.failing]
    return found


def content(made: Bench) -> dict[str, object]:
    """All cells but the host's memory and the caches themselves."""
    return {
        cell.name: made.hand[cell]
        for cell in made.hand.world.cells
        if not cell.name.startswith(("failing", "caches"))
    }


def test_the_first_fault_fills_both() -> None:
    made = loaded()
    assert caches(made) == Caches()
    assert made.do(made.vm.mmu.fault.page_fault(made.vcpu, PAGES[0], LOAD)) is FaultResult.RESUME
    assert caches(made) == FULL, "first entries take no object"


@pytest.mark.parametrize(("pages", "descs"), [(1, 0), (2, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_frame_that_is_mapped_often_takes_a_desc_for_four(pages: int, descs: int) -> None:
    made = loaded()
    for gva in PAGES[:pages]:
        made.do(made.vm.mmu.fault.page_fault(made.vcpu, gva, LOAD))
    assert caches(made) == Caches(OBJECTS, OBJECTS - descs)


def test_a_table_with_two_parents_takes_a_chain() -> None:
    made = loaded()
    made.poke((0x12 << 12) + 8 * 3, make_entry(0x13, P | W | U | A))
    for gva in (PAGES[0], Gva(PAGES[0] + (1 << 21))):
        made.do(made.vm.mmu.fault.page_fault(made.vcpu, gva, LOAD))
    assert caches(made) == Caches(OBJECTS - 1, OBJECTS), "one spte maps the frame for both"


@pytest.mark.parametrize("low", [MINIMUM, Caches(3, 5), Caches(20, 0)])
def test_what_is_low_is_filled_up(low: Caches) -> None:
    made = loaded()
    assert isinstance(made.vcpu, Vcpu)
    made.hand[made.vcpu.caches] = low
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, PAGES[0], LOAD))
    assert caches(made) == Caches(
        *(OBJECTS if n < least else n for n, least in zip(low, MINIMUM, strict=True))
    )


@pytest.mark.parametrize("filled", [0, 1])
def test_without_memory_nothing_of_the_mmu_changes(filled: int) -> None:
    """The first or the second cache cannot be filled."""
    made = loaded()
    run_short(made, 1)
    if filled:
        assert isinstance(made.vcpu, Vcpu)
        made.hand[made.vcpu.caches] = Caches(OBJECTS, 0)
    before = content(made)
    found = made.do(made.vm.mmu.fault.page_fault(made.vcpu, PAGES[0], STORE))
    assert found is FaultResult.NO_MEMORY
    assert content(made) == before
    assert failing(made) == 0


def test_userspace_runs_the_vcpu_again() -> None:
    made = machine()
    made.poke(2 << 12, 77)
    run_short(made, 3)
    assert made.do(made.guest.load(PAGES[0])) == 77
    assert made.hand.said(UserExit) == [UserExit(0, "-ENOMEM")] * 3
    assert [goal.name for goal in made.hand.said(Goal)].count("out of memory") == 3


def test_a_root_is_not_loaded_without_memory() -> None:
    made = machine()
    run_short(made, 1)
    doing = made.hand.start(made.vm.loop.enter(made.vcpu))
    doing.until(lambda op: isinstance(op.event, UserExit))
    assert made.hand[made.vcpu.root] == NO_ROOT
    assert made.hand[made.vm.mmu.cache.active] == ()
    assert failing(made) == 0
    doing.finish()
    assert made.hand[made.vcpu.root] != NO_ROOT


def test_a_store_is_not_emulated_without_memory() -> None:
    made = machine()
    cpu = made.guest
    made.do(cpu.load(PAGES[0]))
    window = cpu.window(PAGES[0])
    made.do(cpu.load(window))
    gpte = made.word(made.vm.layout.gpte("A", PAGES[0]))
    assert isinstance(made.vcpu, Vcpu)
    made.hand[made.vcpu.caches] = Caches()
    run_short(made, 1)
    found = made.do(made.vm.mmu.fault.page_fault(made.vcpu, window, STORE))
    assert found is FaultResult.NO_MEMORY
    assert made.word(made.vm.layout.gpte("A", PAGES[0])) == gpte
    made.do(cpu.store_pte(PAGES[0], frame=None))
    assert made.word(made.vm.layout.gpte("A", PAGES[0])) == 0


def test_an_object_that_is_not_there_is_a_bug_of_ours() -> None:
    made = loaded()
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, PAGES[0], LOAD))
    assert isinstance(made.vcpu, Vcpu)
    page_ = made.vm.mmu.cache.pages[3]
    made.hand[made.vcpu.caches] = Caches()
    install = made.vm.mmu.set_spte.replace(made.vcpu, page_, 9, made.spte(3, 0))
    with pytest.raises(InternalError, match="finds no rmap_descs"):
        made.hand.locked(install)


def test_without_the_feature_a_shortage_is_refused() -> None:
    made = bench()
    with pytest.raises(UsageError, match="memory-caches"):
        made.do(made.host.run_short(), 1)
