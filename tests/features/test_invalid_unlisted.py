"""Invalid pages and the list of active pages."""

from __future__ import annotations

from tests.hand import Bench, bench
from vmm.hw.layout import REGION, page
from vmm.units import Gfn

ROOT_GFN = Gfn(0x10)
PAGES = 12


def running(feature: str = "invalid-unlisted") -> Bench:
    made = bench(
        {"A": {int(REGION): page(2)}}, features=(feature,), shadow_pages=PAGES, refill=PAGES
    )
    made.do(made.guest.load(REGION))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    return made


def test_a_zapped_root_in_use_is_on_no_list_until_its_user_frees_it() -> None:
    made = running()
    cache = made.vm.mmu.cache
    (root,) = made.pages(ROOT_GFN)
    made.do(made.host.zap_table(ROOT_GFN), 1)
    assert root not in made.hand[cache.active]
    assert root not in made.hand[cache.free]
    made.do(made.vm.mmu.roots.free(made.vcpu))
    assert root in made.hand[cache.free]


def recycled(made: Bench) -> list[int]:
    """The pages that are left when all that can be is recycled."""
    cache = made.vm.mmu.cache
    made.hand[cache.free] = made.hand[cache.free][:1]  # as if the others were taken
    made.hand.locked(made.vm.mmu.recycle.free_some(made.vcpu))
    return list(made.hand[cache.active])


def test_recycling_passes_over_roots_in_use() -> None:
    assert recycled(running()) == running().pages(ROOT_GFN)


def test_zapping_a_parent_leaves_its_children_but_for_orphan_zap() -> None:
    for feature, left in (("invalid-unlisted", 2), ("orphan-zap", 0)):
        made = running(feature)
        (middle,) = made.pages(0x11)
        made.hand.locked(made.vm.mmu.zap.zap_page(None, made.vm.mmu.cache.pages[middle]))
        assert len(made.hand[made.vm.mmu.cache.active]) == 1 + left
