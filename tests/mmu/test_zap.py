"""Zapping sptes, pages and all shadows of a frame."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from vmm.bits import frame_of
from vmm.errors import InternalError
from vmm.hw.access import LOAD, STORE
from vmm.hw.events import GiveBack
from vmm.hw.layout import REGION, page
from vmm.hw.pcpu import Ipi
from vmm.mmu.shadow_page import SpteRef
from vmm.units import Gfn, Gva
from vmm.vcpu.requests import TLB_FLUSH

DATA, OTHER = REGION, Gva(REGION + 0x1000)
ROOT, L3, L2, L1 = 0, 1, 2, 3
"""Numbers of the shadow pages that the first fault makes."""


def machine(**config: Any) -> Bench:
    """Two vCPUs in one space, with DATA and OTHER mapped."""
    made = bench({"A": {DATA: page(2), OTHER: page(3)}}, vcpus=2, **config)
    for vcpu in made.vm.vcpus:
        made.do(made.vm.mmu.roots.load(vcpu))
    for gva in (DATA, OTHER):
        made.do(made.vm.mmu.fault.page_fault(made.vcpu, gva, STORE))
    for vcpu in made.vm.vcpus:
        made.hand[vcpu.requests] = 0
    return made


def zap(made: Bench, number: int) -> None:
    mmu = made.vm.mmu
    made.hand.locked(mmu.zap.zap_page(made.vcpu, mmu.cache.pages[number]))


def active(made: Bench) -> list[int]:
    return list(made.hand[made.vm.mmu.cache.active])


def parents(made: Bench, number: int) -> list[SpteRef]:
    return list(made.hand[made.vm.mmu.cache.pages[number].parents])


def flushed(made: Bench) -> bool:
    return bool(made.hand[made.vm.vcpus[1].requests] & TLB_FLUSH)


def test_a_leaf_table_takes_its_rmap_entries_with_it() -> None:
    made = machine()
    zap(made, L1)
    assert L1 not in active(made)
    assert made.pages(0x13) == []
    assert made.leaves() == {}
    assert [made.hand[made.vm.mmu.rmap.chains[Gfn(gfn)]] for gfn in (2, 3)] == [(), ()]
    assert made.hand[made.vm.mmu.cache.pages[L2].present] == ()
    assert flushed(made)


def test_children_stay_without_a_parent() -> None:
    made = machine()
    zap(made, L2)
    assert active(made) == [ROOT, L3, L1]
    assert parents(made, L1) == []
    assert len(made.leaves()) == 2, "an orphan keeps its leaves"
    assert made.hand[made.vm.mmu.cache.pages[L3].present] == ()


def test_an_orphan_is_found_and_linked_again() -> None:
    made = machine()
    zap(made, L2)
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, DATA, LOAD))
    assert made.pages(0x13) == [L1]
    assert len(parents(made, L1)) == 1


def test_a_root_in_use_is_emptied_and_stays() -> None:
    made = machine()
    zap(made, ROOT)
    assert active(made) == [L3, L2, L1, ROOT], "and it becomes the youngest"
    assert made.pages(0x10) == [ROOT]
    assert made.hand[made.vm.mmu.cache.pages[ROOT].present] == ()
    assert parents(made, L3) == []
    assert not made.hand.said(GiveBack)
    assert flushed(made)


def test_a_root_that_nobody_uses_goes() -> None:
    made = machine()
    for vcpu in made.vm.vcpus:
        made.do(made.vm.mmu.roots.free(vcpu))
    assert ROOT in active(made)
    zap(made, ROOT)
    assert made.pages(0x10) == []


def test_a_page_goes_back_when_all_have_flushed() -> None:
    made = machine()
    second = made.vm.vcpus[1]
    mmu = made.vm.mmu
    made.hand[mmu.lock] = 1
    doing = made.hand.start(mmu.zap.zap_page(made.vcpu, mmu.cache.pages[L1]))
    while doing.enabled:
        doing.step()
    assert made.hand[second.pcpu.ipi] is Ipi.SENT, "it waits until the IPI is taken"
    assert not made.hand.said(GiveBack)
    assert made.spte(L1, 0) == made.spte(L2, 2) == 0
    assert doing.finish() is None
    assert [event.pfn for event in made.hand.said(GiveBack)] == [mmu.cache.pages[L1].pfn]


def test_a_free_page_is_never_zapped() -> None:
    made = machine()
    zap(made, L1)
    with pytest.raises(InternalError, match="sp3 is zapped although it is free"):
        zap(made, L1)


def test_a_freed_page_is_clean() -> None:
    made = machine()
    zap(made, L2)
    zap(made, L1)
    for number in (L1, L2):
        page_ = made.vm.mmu.cache.pages[number]
        assert made.hand[page_.header] is None
        assert made.hand[page_.present] == made.hand[page_.parents] == ()
        assert not [ref for ref in made.vm.mmu.cache.sptes.cells
                    if ref.page == number and made.spte(*ref)]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "index", "was"), [(L1, 0, True), (L1, 77, False), (L2, 2, True)]
)
def test_dropping_one_spte(number: int, index: int, was: bool) -> None:
    made = machine()
    mmu = made.vm.mmu
    cell = mmu.cache.pages[number]
    level = made.hand[cell.header].role.level
    spte = made.spte(number, index)
    assert made.hand.locked(mmu.zap.drop_spte(cell, level, index)) is was
    assert made.spte(number, index) == 0
    assert not flushed(made), "the caller flushes, once for many"
    if was and level == 1:
        assert made.hand[mmu.rmap.chains[Gfn(frame_of(spte))]] == ()
    if was and level > 1:
        assert parents(made, L1) == []


def test_a_frame_loses_every_shadow_of_its_table() -> None:
    made = machine()
    assert made.hand.locked(made.vm.mmu.zap.zap_gfn(made.vcpu, Gfn(0x13))) is True
    assert made.hand.locked(made.vm.mmu.zap.zap_gfn(made.vcpu, Gfn(0x10))) is False, "root in use"
    assert made.hand.locked(made.vm.mmu.zap.zap_gfn(made.vcpu, Gfn(0x99))) is True, "never shadowed"


def test_everything_goes_but_roots_in_use() -> None:
    made = machine()
    made.do(made.host.zap_all(), 2)
    assert active(made) == [ROOT]
    assert [vcpu.number for vcpu in made.vm.vcpus if made.hand[vcpu.root].pages == (ROOT,)] == [
        0,
        1,
    ]
