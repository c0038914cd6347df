"""The shadow page cache against a list of pages in the order of their making."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.hand import bench
from vmm.bits import U, W
from vmm.engine.ops import WaitUntil
from vmm.hw.events import GiveBack, Take
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import Header
from vmm.units import Gfn

CAPACITY = 4
gfns = st.integers(0, 2).map(Gfn)
roles = st.builds(
    Role, st.integers(1, 4), direct=st.booleans(), access=st.sampled_from([U, W | U]),
    owner=st.integers(0, 1),
)  # fmt: skip


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = bench(shadow_pages=CAPACITY)
        self.cache = self.bench.vm.mmu.cache
        self.model: dict[int, Header] = {}
        """By number; oldest first."""

    @property
    def free(self) -> list[int]:
        return [number for number in range(CAPACITY) if number not in self.model]

    @rule(gfn=gfns, role=roles)
    def insert(self, gfn: Gfn, role: Role) -> None:
        if not self.free:
            doing = self.bench.hand.start(self.cache.insert(gfn, role))
            doing.until(lambda op: isinstance(op, WaitUntil))
            assert not doing.enabled, "it waits for good"
            doing.program.close()
            return
        page = self.bench.hand.locked(self.cache.insert(gfn, role))
        assert page.number == self.free[0]
        assert self.bench.hand.said(Take)[-1].pfn == page.pfn
        self.model[page.number] = Header(gfn, role)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        page = self.cache.pages[number]
        self.bench.hand.locked(self.cache.remove(page, self.model.pop(number)))
        assert self.bench.hand.said(GiveBack)[-1].pfn == page.pfn

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def to_head(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        self.bench.hand.locked(self.cache.to_head(self.cache.pages[number]))
        self.model[number] = self.model.pop(number)

    @rule(gfn=gfns, role=roles)
    def find(self, gfn: Gfn, role: Role) -> None:
        found = self.bench.hand.locked(self.cache.find(gfn, role))
        matching = [n for n, header in self.model.items() if header == (gfn, role)]
        assert found is None if not matching else found is not None and found.number in matching

    @rule(gfn=gfns)
    def is_shadowed(self, gfn: Gfn) -> None:
        shadowed = any(h.gfn == gfn and h.role.has_gptes for h in self.model.values())
        assert self.bench.hand.locked(self.cache.is_shadowed(gfn)) is shadowed

    @invariant()
    def every_list_says_the_same(self) -> None:
        hand, cache = self.bench.hand, self.cache
        assert hand[cache.free] == tuple(self.free)
        assert hand[cache.active] == tuple(self.model)
        assert [hand[page.header] for page in cache.pages] == [
            self.model.get(number) for number in range(CAPACITY)
        ]
        for gfn in range(3):
            bucket = sorted((h.role, n) for n, h in self.model.items() if h.gfn == gfn)
            assert hand[cache.buckets[Gfn(gfn)]] == tuple(bucket)


TestPageCache = CacheMachine.TestCase


def test_pages_are_found_by_their_host_frames() -> None:
    cache = bench(shadow_pages=CAPACITY).vm.mmu.cache
    assert [cache.page_at(page.pfn) for page in cache.pages] == list(cache.pages)
