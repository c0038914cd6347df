"""The paravirtual flush: what the shared byte says, who takes it, and what a flush is."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from vmm.engine.ops import Cas, Choose, Op
from vmm.errors import UsageError
from vmm.features.pv_flush import FLUSH_TLB, PREEMPTED, preemptible
from vmm.hw.layout import REGION, page
from vmm.vcpu.events import FlushDeferred
from vmm.vcpu.requests import STEAL_UPDATE, TLB_FLUSH

DATA, OTHER = REGION, REGION + 0x1000


def machine() -> Bench:
    """Both vCPUs in the guest, DATA in their TLBs, its table unsync."""
    made = bench({"A": {DATA: page(2), OTHER: page(3)}}, vcpus=2, features=("pv-flush",))
    for number in (0, 1):
        made.do(made.guests[number].load(DATA), number)
    made.do(made.guest.store_pte(DATA, frame=2))
    made.do(made.guests[1].load(DATA), 1)
    return made


def byte_of(made: Bench, number: int) -> int:
    return int(made.hand[preemptible(made.vm.vcpus[number]).preempted])


def preempted(made: Bench) -> None:
    """Have vCPU 1 scheduled out at an instruction boundary."""
    vcpu = preemptible(made.vm.vcpus[1])
    made.do(made.vm.loop.exit(vcpu, "external interrupt"), 1)
    made.do(vcpu.sched_out(at_boundary=True), 1)


def test_a_vcpu_that_runs_wants_an_ipi() -> None:
    made = machine()
    assert byte_of(made, 1) == 0
    assert made.do(made.guest.flush_preempted(1)) is False
    assert not made.hand.said(FlushDeferred)


def test_a_flush_is_left_to_a_preempted_vcpu_and_done_before_it_runs() -> None:
    made = machine()
    preempted(made)
    made.do(made.guest.store_pte(DATA, frame=4))
    assert made.do(made.guest.flush_preempted(1)) is True
    assert byte_of(made, 1) == PREEMPTED | FLUSH_TLB
    assert made.hand.said(FlushDeferred) == [FlushDeferred(1)]
    made.do(made.vm.loop.leave(made.vcpu, "test"))  # the sync flushes it, too
    made.do(preemptible(made.vm.vcpus[1]).sched_in(), 1)
    made.poke(4 << 12, 77)
    assert made.do(made.guests[1].load(DATA), 1) == 77
    assert byte_of(made, 1) == 0


def test_without_the_flag_nothing_is_flushed() -> None:
    made = machine()
    preempted(made)
    made.do(made.guest.store_pte(DATA, frame=4))
    made.do(preemptible(made.vm.vcpus[1]).sched_in(), 1)
    made.poke(2 << 12, 66)
    assert made.do(made.guests[1].load(DATA), 1) == 66, "it may still use what it has cached"


def test_a_flag_that_comes_after_the_byte_was_taken_is_refused() -> None:
    made = machine()
    preempted(made)
    flushing = made.hand.start(made.guest.flush_preempted(1))
    flushing.until(lambda op: isinstance(op, Cas))
    made.do(preemptible(made.vm.vcpus[1]).take_byte(), 1)
    assert flushing.finish() is False
    assert byte_of(made, 1) == 0


def test_in_the_middle_of_an_instruction_nothing_is_reported() -> None:
    made = machine()
    vcpu = preemptible(made.vm.vcpus[1])
    made.do(vcpu.preempt(at_boundary=False), 1)
    assert byte_of(made, 1) == 0
    assert made.hand[vcpu.requests] & STEAL_UPDATE


def test_kvms_own_requests_are_served_first() -> None:
    made = machine()
    preempted(made)
    vcpu = preemptible(made.vm.vcpus[1])
    made.do(vcpu.sched_in(), 1)
    flusher = made.vm.mmu.flusher
    made.do(flusher.make_request(vcpu, TLB_FLUSH), 1)  # type: ignore[attr-defined]
    entering = made.hand.start(made.vm.loop.enter(vcpu), 1)
    entering.until(lambda op: vcpu.preempted in op.cells)
    assert made.hand[vcpu.requests] == 0


def test_the_host_may_preempt_at_every_boundary() -> None:
    made = machine()
    loading = made.hand.start(made.guest.load(DATA))

    def is_choice(op: Op) -> bool:
        return isinstance(op, Choose)

    assert is_choice(loading.until(is_choice))


def test_a_guest_must_have_asked_for_it() -> None:
    made = bench({"A": {DATA: page(2)}})
    with pytest.raises(UsageError, match=r'features=\("pv-flush",\)'):
        made.do(made.guest.flush_preempted(0))
