"""The host takes frames away: only when nobody maps them, and nobody is about to."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from vmm.bits import P, frame_of
from vmm.engine.ops import Acquire
from vmm.errors import UsageError
from vmm.features import host_paging
from vmm.hw.access import LOAD
from vmm.hw.events import GiveBack
from vmm.hw.layout import REGION, page
from vmm.mmu.api import FaultResult
from vmm.mmu.memslots import pfn_of
from vmm.units import Gfn, Gva
from vmm.vcpu.requests import TLB_FLUSH

DATA, OTHER = REGION, Gva(REGION + 0x1000)


def machine(**config: Any) -> Bench:
    made = bench(
        {"A": {DATA: page(2), OTHER: page(3)}}, vcpus=2, features=("host-paging",), **config
    )
    for vcpu in made.vm.vcpus:
        made.do(made.vm.mmu.roots.load(vcpu))
    for vcpu in made.vm.vcpus:
        made.hand[vcpu.requests] = 0
    return made


def mapped() -> Bench:
    made = machine()
    for gva in (DATA, OTHER):
        made.do(made.vm.mmu.fault.page_fault(made.vcpu, gva, LOAD))
    return made


def flushed(made: Bench) -> bool:
    return bool(made.hand[made.vm.vcpus[1].requests] & TLB_FLUSH)


def test_the_host_frame_is_pinned_while_the_fault_lasts() -> None:
    made = machine()
    slots = made.vm.mmu.slots
    assert isinstance(slots, host_paging.Memslots)
    frame = slots.frames[Gfn(2)]
    doing = made.hand.start(made.vm.mmu.fault.page_fault(made.vcpu, DATA, LOAD))
    doing.until(lambda op: isinstance(op, Acquire))
    assert made.hand[frame].pins == 1
    assert made.do(made.host.reclaim(2), 2) is False
    assert doing.finish() is FaultResult.RESUME
    assert made.hand[frame].pins == 0
    assert made.do(made.host.reclaim(2), 2) is True
    assert made.leaves() == {}
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, DATA, LOAD))
    (spte,) = made.leaves().values()
    assert frame_of(spte) == pfn_of(2, 1)


def test_a_frame_is_unmapped_everywhere_before_it_goes() -> None:
    made = mapped()
    assert made.do(made.host.reclaim(2), 2) is True
    assert [frame_of(spte) for spte in made.leaves().values()] == [3]
    assert flushed(made)
    assert [event.pfn for event in made.hand.said(GiveBack)] == [2]
    assert made.do(made.host.reclaim(2), 2) is False, "it is gone already"


def test_a_frame_that_nobody_maps_goes_without_a_flush() -> None:
    made = mapped()
    assert made.do(made.host.reclaim(9), 2) is True
    assert not flushed(made)
    assert all(spte & P for spte in made.leaves().values())


def test_without_the_feature_a_host_thread_is_told_what_is_missing() -> None:
    made = bench()
    with pytest.raises(UsageError, match=r"needs the feature host-paging: give the machine"):
        made.do(made.host.reclaim(2), 1)
