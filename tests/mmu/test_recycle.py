"""Recycling: the oldest pages first, roots in use never."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.hand import Bench, bench
from vmm.bits import U, W
from vmm.engine.events import Goal
from vmm.hw.events import GiveBack
from vmm.mmu.role import Role
from vmm.units import Gfn


def pool(pages: int, *, min_free: int, refill: int, roots: tuple[int, ...] = ()) -> Bench:
    """Five pages that hold leaf tables made in order; ``roots`` are in use."""
    made = bench(shadow_pages=pages, min_free=min_free, refill=refill)
    cache = made.vm.mmu.cache
    for number in range(5):
        role = Role(1, direct=False, access=W | U)
        page = made.hand.locked(cache.insert(Gfn(0x20 + number), role))
        made.hand[page.root_count] = int(number in roots)
    return made


def recycle(made: Bench) -> list[int]:
    """Run it; gives the numbers of the pages that went, in order."""
    made.hand.locked(made.vm.mmu.recycle.free_some(made.vcpu))
    first = made.vm.mmu.cache.pages[0].pfn
    return [event.pfn - first for event in made.hand.said(GiveBack)]


def test_nothing_goes_while_enough_is_free() -> None:
    made = pool(7, min_free=2, refill=4)
    assert recycle(made) == []
    assert not made.hand.said(Goal)


def test_the_oldest_go_until_enough_is_free() -> None:
    assert recycle(pool(6, min_free=2, refill=4)) == [0, 1, 2]


def test_a_page_that_is_found_again_grows_no_younger() -> None:
    made = pool(6, min_free=2, refill=2)
    made.hand.locked(made.vm.mmu.cache.find(Gfn(0x20), Role(1, direct=False, access=W | U)))
    assert recycle(made) == [0]


def test_a_page_moved_to_the_head_goes_last() -> None:
    made = pool(6, min_free=2, refill=3)
    made.hand.locked(made.vm.mmu.cache.to_head(made.vm.mmu.cache.pages[0]))
    assert recycle(made) == [1, 2]


def test_roots_in_use_survive() -> None:
    made = pool(6, min_free=2, refill=4, roots=(0, 2))
    assert recycle(made) == [1, 3, 4]
    assert made.hand[made.vm.mmu.cache.active] == (0, 2)


def test_one_pass_ends_even_if_all_are_in_use() -> None:
    made = pool(5, min_free=1, refill=1, roots=tuple(range(5)))
    assert recycle(made) == []
    assert made.hand[made.vm.mmu.cache.active] == tuple(range(5))


PAGES, MIN_FREE, REFILL = 8, 3, 5


class RecycleMachine(RuleBasedStateMachine):
    """A pool against a list, oldest page first, and a dict of users."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = bench(shadow_pages=PAGES, min_free=MIN_FREE, refill=REFILL)
        self.cache = self.bench.vm.mmu.cache
        self.active: list[int] = []
        self.users: dict[int, int] = {}
        self.made = 0

    @precondition(lambda self: len(self.active) < PAGES)
    @rule()
    def take(self) -> None:
        self.made += 1
        role = Role(1, direct=False, access=W | U)
        page = self.bench.hand.locked(self.cache.insert(Gfn(0x20 + self.made), role))
        self.active.append(page.number)
        self.users[page.number] = 0

    @precondition(lambda self: self.active)
    @rule(data=st.data(), change=st.sampled_from([1, -1]))
    def use(self, data: st.DataObject, change: int) -> None:
        number = data.draw(st.sampled_from(self.active))
        self.users[number] = max(0, self.users[number] + change)
        self.bench.hand[self.cache.pages[number].root_count] = self.users[number]

    @rule()
    def recycle(self) -> None:
        recycle(self.bench)
        if PAGES - len(self.active) >= MIN_FREE:
            return
        for number in list(self.active):
            self.active.remove(number)
            if self.users[number]:
                self.active.append(number)
            if PAGES - len(self.active) >= REFILL:
                break

    @invariant()
    def the_same_pages_in_the_same_order(self) -> None:
        assert self.bench.hand[self.cache.active] == tuple(self.active)
        free = [number for number in range(PAGES) if number not in self.active]
        assert self.bench.hand[self.cache.free] == tuple(free)


TestRecycle = RecycleMachine.TestCase
