"""The reverse map against a dict of lists."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.hand import bench
from vmm.errors import InternalError
from vmm.mmu.shadow_page import SpteRef
from vmm.units import Gfn

gfns = st.integers(0, 3).map(Gfn)
refs = st.builds(SpteRef, st.integers(0, 2), st.integers(0, 3))


class RmapMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = bench()
        self.rmap = self.bench.vm.mmu.rmap
        self.model: defaultdict[int, list[SpteRef]] = defaultdict(list)

    @rule(gfn=gfns, ref=refs)
    def add(self, gfn: Gfn, ref: SpteRef) -> None:
        self.bench.hand.locked(self.rmap.add(gfn, ref))
        self.model[gfn].append(ref)

    @rule(gfn=gfns, ref=refs)
    def remove(self, gfn: Gfn, ref: SpteRef) -> None:
        if ref in self.model[gfn]:
            self.bench.hand.locked(self.rmap.remove(gfn, ref))
            self.model[gfn].remove(ref)
        else:
            with pytest.raises(InternalError, match="does not hold"):
                self.bench.hand.locked(self.rmap.remove(gfn, ref))

    @invariant()
    def same_content_in_one_form(self) -> None:
        for gfn in range(4):
            held = self.bench.hand[self.rmap.chains[Gfn(gfn)]]
            assert held == tuple(sorted(self.model[gfn]))


TestRmap = RmapMachine.TestCase
