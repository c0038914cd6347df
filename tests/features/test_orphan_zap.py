"""How far down a zap goes."""

from __future__ import annotations

from tests.hand import Bench, bench
from vmm.hw.layout import REGION, page
from vmm.units import Gva

SECOND = Gva(REGION + (1 << 30))
"""Below another table of level 2."""
LEAF_TABLE = 0x13
LINK = 0x27


def shared_leaf() -> Bench:
    """A guest with a leaf table that two tables of level 2 lead to."""
    made = bench({"A": {int(REGION): page(2), int(SECOND): page(3)}}, features=("orphan-zap",))
    made.poke(made.vm.layout.gpte("A", SECOND, 2), (LEAF_TABLE << 12) | LINK)
    for gva in (REGION, SECOND):
        made.do(made.guest.load(gva))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    return made


def test_a_child_with_another_parent_stays() -> None:
    made = shared_leaf()
    cache = made.vm.mmu.cache
    (leaf,) = made.pages(LEAF_TABLE)
    first, second = [cache.pages[ref.page] for ref in made.hand[cache.pages[leaf].parents]]
    made.hand.locked(made.vm.mmu.zap.zap_page(None, first))
    assert made.pages(LEAF_TABLE) == [leaf]
    made.hand.locked(made.vm.mmu.zap.zap_page(None, second))
    assert made.pages(LEAF_TABLE) == []
    assert leaf in made.hand[cache.free]
