"""Replaying recorded events on a vCPU."""

from __future__ import annotations

from tests.hand import bench
from vmm.hw.layout import REGION, page
from vmm.workload.replay import STRING_STORES, Action, Replayed, perform

DATA = REGION


def test_a_vcpu_can_be_interrupted_before_what_it_only_notes() -> None:
    made = bench({"A": {DATA: page(2)}})
    made.do(made.guest.load(DATA))
    before = len(made.hand.taken)
    made.do(perform(made.guest, Action(1, "note")))
    first = made.hand.taken[before]
    assert made.vm.vcpus[0].pcpu.irq in first.cells
    assert made.hand.said(Replayed) == [Replayed(1, -1)]


def test_equal_stores_fill_what_they_name_however_many_they_are() -> None:
    for times in (1, STRING_STORES - 1, STRING_STORES, STRING_STORES + 9):
        made = bench({"A": {DATA: page(2)}})
        made.do(perform(made.guest, Action(1, "store", DATA, 8, 5, times)))
        words = [made.word((2 << 12) + 8 * n) for n in range(times + 1)]
        assert words == [*[5] * times, 0]
