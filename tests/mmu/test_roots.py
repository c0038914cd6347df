"""Shadow roots: counted, shared, and found again."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from vmm.engine.events import Goal
from vmm.hw.access import LOAD
from vmm.hw.events import RegistersWritten
from vmm.hw.layout import REGION, page
from vmm.mmu.api import NO_ROOT, Root
from vmm.units import Gfn
from vmm.vcpu.requests import TLB_FLUSH

A = Gfn(0x10)


def machine(*, no_cache: bool = False) -> Bench:
    return bench(
        {"A": {REGION: page(2)}, "B": {REGION: page(3)}},
        vcpus=2,
        features=("no-cache",) if no_cache else (),
    )


def load(made: Bench, vcpu: int = 0) -> int:
    (page,) = made.do(made.vm.mmu.roots.load(made.vm.vcpus[vcpu])).pages
    return page


def switch(made: Bench, space: str) -> None:
    old, new = made.hand[made.vcpu.registers], made.vm.layout.registers(space)
    written = RegistersWritten(made.vcpu.number, old, new, mov_cr3=True)
    made.do(made.vm.mmu.roots.switch(made.vcpu, written))


def count(made: Bench, number: int) -> int:
    found: int = made.hand[made.vm.mmu.cache.pages[number].root_count]
    return found


def test_a_root_is_the_shadow_of_the_table_in_cr3() -> None:
    made = machine()
    number = load(made)
    assert made.hand[made.vcpu.root] == Root(4, (number,))
    assert made.pages(A) == [number]
    assert count(made, number) == 1
    assert made.hand[made.vcpu.requests] & TLB_FLUSH, "a new root is a new address space"


def test_two_vcpus_share_a_root_and_let_go_of_it_one_by_one() -> None:
    made = machine()
    assert load(made, 0) == load(made, 1)
    (root,) = made.hand[made.vcpu.root].pages
    assert count(made, root) == 2
    for left, vcpu in ((1, made.vm.vcpus[0]), (0, made.vm.vcpus[1])):
        made.do(made.vm.mmu.roots.free(vcpu))
        assert made.hand[vcpu.root] == NO_ROOT
        assert count(made, root) == left
    assert made.pages(A) == [root], "it stays for the next one"


def test_letting_go_twice_counts_once() -> None:
    made = machine()
    root = load(made)
    for _ in range(2):
        made.do(made.vm.mmu.roots.free(made.vcpu))
    assert count(made, root) == 0


def test_a_switch_and_back_finds_the_shadow_where_it_was() -> None:
    made = machine()
    root = load(made)
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, REGION, LOAD))
    for space in "BA":
        switch(made, space)
        assert made.hand[made.vcpu.root] == NO_ROOT
        assert made.hand[made.vcpu.registers] == made.vm.layout.registers(space)
        load(made)
    assert made.hand[made.vcpu.root] == Root(4, (root,))
    assert [goal.name for goal in made.hand.said(Goal)] == ["cached root found"]


@pytest.mark.parametrize(("no_cache", "keeps"), [(False, True), (True, False)])
def test_the_same_cr3_again_flushes_and_keeps_the_shadow_if_that_is_in_sync(
    no_cache: bool, keeps: bool
) -> None:
    made = machine(no_cache=no_cache)
    load(made)
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, REGION, LOAD))
    made.hand[made.vcpu.requests] = 0
    switch(made, "A")
    assert (made.hand[made.vcpu.root] != NO_ROOT) == keeps
    assert bool(made.leaves()) == keeps
    if not keeps:
        load(made)
    assert made.hand[made.vcpu.requests] & TLB_FLUSH
