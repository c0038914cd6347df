"""Parent links against a dict from sptep to child."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.hand import bench
from vmm.bits import P, U, W, frame_of
from vmm.hw.events import GiveBack
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import SpteRef
from vmm.units import Gfn

LEVELS = (3, 3, 2, 2, 1, 1)
"""Of the shadow pages by number. Pages of level 3 are roots in use."""
indexes = st.integers(0, 2)


class ParentsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = bench(shadow_pages=len(LEVELS))
        self.mmu = self.bench.vm.mmu
        self.links: dict[SpteRef, int] = {}

    @initialize()
    def make_pages(self) -> None:
        for number, level in enumerate(LEVELS):
            self.make(number)
            self.bench.hand[self.mmu.cache.pages[number].root_count] = int(level == 3)

    def make(self, number: int) -> None:
        """Take the page of that number, which must be the first free one."""
        role = Role(LEVELS[number], direct=False, access=W | U)
        page = self.bench.hand.locked(self.mmu.cache.insert(Gfn(0x20 + number), role))
        assert page.number == number

    @rule(data=st.data(), index=indexes, upper=st.sampled_from([3, 2]))
    def link(self, data: st.DataObject, index: int, upper: int) -> None:
        parent = data.draw(st.sampled_from([n for n, at in enumerate(LEVELS) if at == upper]))
        child = data.draw(st.sampled_from([n for n, at in enumerate(LEVELS) if at == upper - 1]))
        ref = SpteRef(parent, index)
        if ref in self.links:
            return
        pages = self.mmu.cache.pages
        linking = self.mmu.fault.link(self.bench.vcpu, pages[parent], index, pages[child])
        self.bench.hand.locked(linking)
        self.links[ref] = child

    @precondition(lambda self: self.links)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        ref = data.draw(st.sampled_from(sorted(self.links)))
        page = self.mmu.cache.pages[ref.page]
        dropping = self.mmu.zap.drop_spte(page, LEVELS[ref.page], ref.index)
        assert self.bench.hand.locked(dropping) is True
        del self.links[ref]

    @rule(number=st.integers(0, len(LEVELS) - 1))
    def zap(self, number: int) -> None:
        """Its parents and children forget it; a root stays, another page comes back as new."""
        before = len(self.bench.hand.said(GiveBack))
        page = self.mmu.cache.pages[number]
        self.bench.hand.locked(self.mmu.zap.zap_page(self.bench.vcpu, page))
        stays = LEVELS[number] == 3
        assert len(self.bench.hand.said(GiveBack)) == before + (not stays)
        self.links = {
            ref: child for ref, child in self.links.items() if number not in (ref.page, child)
        }
        if not stays:
            assert self.bench.hand[page.parents] == ()
            self.make(number)

    @invariant()
    def parents_are_those_that_point_here(self) -> None:
        for page in self.mmu.cache.pages:
            expected = sorted(ref for ref, child in self.links.items() if child == page.number)
            assert self.bench.hand[page.parents] == tuple(expected)

    @invariant()
    def sptes_point_where_they_should(self) -> None:
        present = {
            ref: self.mmu.cache.page_at(frame_of(self.bench.hand[cell])).number
            for ref, cell in self.mmu.cache.sptes.cells.items()
            if self.bench.hand[cell] & P
        }
        assert present == self.links


TestParentLinks = ParentsMachine.TestCase
