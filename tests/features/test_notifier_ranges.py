"""Ranges of invalidations by hand: which faults retry."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from vmm.engine.ops import Acquire
from vmm.features import notifier
from vmm.hw.access import LOAD
from vmm.hw.layout import REGION, page

FRAME = 10
HOST = 1


def machine() -> Bench:
    made = bench({"A": {int(REGION): page(FRAME)}}, features=("notifier-ranges",))
    made.do(made.vm.mmu.roots.load(made.vcpu))
    return made


def host(made: Bench) -> notifier.Host:
    assert isinstance(made.host, notifier.Host)
    return made.host


def open_range(made: Bench, first: int, frames: int) -> None:
    made.do(host(made).invalidate_start(first, frames), HOST)


def close_range(made: Bench, first: int, frames: int) -> None:
    made.do(host(made).invalidate_end(first, frames), HOST)


def faults(made: Bench) -> bool:
    """Whether a fault maps the page."""
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, REGION, LOAD))
    return bool(made.leaves())


@pytest.mark.parametrize(
    ("first", "frames", "maps"), [(FRAME, 1, False), (8, 3, False), (8, 2, True), (11, 9, True)]
)
def test_a_fault_retries_within_the_range_that_is_open(first: int, frames: int, maps: bool) -> None:
    made = machine()
    open_range(made, first, frames)
    assert faults(made) == maps
    close_range(made, first, frames)
    assert faults(made)


def test_the_range_holds_all_that_are_open_until_none_is() -> None:
    made = machine()
    open_range(made, 8, 1)
    open_range(made, 12, 1)
    assert not faults(made), "what lies between is in it"
    close_range(made, 8, 1)
    assert not faults(made), "it does not shrink"
    close_range(made, 12, 1)
    open_range(made, 12, 1)
    assert faults(made), "it begins anew"


def test_what_was_resolved_before_the_end_is_not_mapped_whatever_the_range() -> None:
    made = machine()
    open_range(made, 20, 1)
    doing = made.hand.start(made.vm.mmu.fault.page_fault(made.vcpu, REGION, LOAD))
    doing.until(lambda op: isinstance(op, Acquire))
    close_range(made, 20, 1)
    doing.finish()
    assert made.leaves() == {}
