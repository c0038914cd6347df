"""What is done while mmu_lock is shared, what is not, and what the marks' own lock is for."""

from __future__ import annotations

import pytest

from tests import catalogue
from tests.hand import Bench, bench
from vmm.bits import W
from vmm.features.unsync import unsync_page
from vmm.hw.access import STORE
from vmm.hw.layout import REGION, page
from vmm.mmu.api import FaultResult
from vmm.search.exhaustive import search
from vmm.units import Gfn, Gva

LEAF_TABLE, MIDDLE_TABLE = 0x13, 0x12


def machine(table: int) -> tuple[Bench, Gva]:
    """A vCPU without paging that has mapped a table, which another one's pages shadow by then."""
    made = bench(
        {"A": {int(REGION): page(2)}, "R": {}},
        vcpus=2,
        space_modes={"R": "real"},
        starts=("R", "A"),
        features=("rwlock",),
    )
    gva = Gva(table << 12)
    for guest, used in zip(made.guests, (gva, REGION), strict=True):
        made.do(guest.load(used), guest.number)
        made.do(made.vm.loop.leave(guest.vcpu, "test"), guest.number)
    return made, gva


def writes(made: Bench, gva: Gva) -> tuple[FaultResult, list[str]]:
    """What a write fault comes to, and the locks that it took."""
    before = len(made.hand.taken)
    result = made.do(made.vm.mmu.fault.page_fault(made.vcpu, gva, STORE))
    assert isinstance(result, FaultResult)
    taken = [op.describe() for op in made.hand.taken[before:] if op.kind.startswith("acquire")]
    return result, taken


def test_a_table_of_level_1_is_made_writable_under_a_shared_lock() -> None:
    made, gva = machine(LEAF_TABLE)
    result, taken = writes(made, gva)
    assert result is FaultResult.RESUME
    assert taken == ["acquire shared mmu_lock", "acquire mmu_unsync_pages_lock"]
    (shadow,) = made.pages(LEAF_TABLE)
    assert made.hand[unsync_page(made.vm.mmu.cache.pages[shadow]).unsync]
    ref = made.hand[made.vm.mmu.rmap.chains[Gfn(LEAF_TABLE)]][0]
    assert made.spte(ref.page, ref.index) & W


@pytest.mark.parametrize("table", [MIDDLE_TABLE, 0x40])
def test_what_needs_more_takes_the_lock_alone(table: int) -> None:
    """A table of a higher level must be emulated, and what is not mapped be mapped."""
    made, _ = machine(MIDDLE_TABLE)
    result, taken = writes(made, Gva(table << 12))
    assert result is (FaultResult.EMULATE if table == MIDDLE_TABLE else FaultResult.RESUME)
    assert taken[0] == "acquire shared mmu_lock"
    assert taken[-1] == "acquire mmu_lock"


def test_without_a_lock_of_their_own_marks_break_the_rule_of_guards_too() -> None:
    """The bug declares that none is needed; where one is, its first store is a finding."""
    world = catalogue.small(catalogue.main_scenario("unsync-counter-race"), "unsync-counter-race")
    built = world.world()
    (inner,) = [cell for cell in built.cells if cell.name == "mmu_unsync_pages_lock"]
    for cell in built.cells:
        if cell.shared_with == ():
            cell.shared_with = (inner,)  # type: ignore[assignment]
    assert [found.code for found in search(built).findings] == ["lock/unguarded"]
