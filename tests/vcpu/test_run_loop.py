"""The run loop by hand: in and out of the guest, one op after the other."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from vmm.hw.access import LOAD
from vmm.hw.layout import REGION, page
from vmm.hw.pcpu import Ipi, Irq
from vmm.hw.tlb import TlbEntry
from vmm.mmu.api import NO_ROOT
from vmm.vcpu.apic import Apic
from vmm.vcpu.events import Enter, Exit
from vmm.vcpu.requests import TLB_FLUSH
from vmm.vcpu.run_loop import ANY_GVA
from vmm.vcpu.vcpu import Mode

STALE = TlbEntry(1, REGION >> 12, 9, 0)


def machine(*, tagged: bool = True) -> Bench:
    made = bench({"A": {REGION: page(2)}}, vcpus=2, tlb_tagged=tagged)
    made.do(made.vm.mmu.roots.load(made.vcpu))
    made.hand[made.vcpu.requests] = 0
    return made


def enter(made: Bench) -> None:
    made.do(made.vm.loop.to_boundary(made.vcpu, ANY_GVA))


def used(made: Bench) -> list[str]:
    """The first cell of each op so far."""
    return [op.cell.name for op in made.hand.taken if op.cell is not None]


def test_the_order_of_an_entry() -> None:
    """Interrupts off, mode, requests, then the guest, unless an IPI is pending.

    Any other order loses a request.
    """
    made = machine()
    enter(made)
    names = used(made)
    first = names.index("mode0") - 1
    assert names[first : first + 4] == ["irq0", "mode0", "requests0", "ipi0"]
    assert made.hand[made.vcpu.pcpu.irq] is Irq.GUEST
    assert made.hand[made.vcpu.mode] is Mode.IN_GUEST_MODE
    assert len(made.hand.said(Enter)) == 1


def test_an_exit_tells_why_and_leaves_interrupts_on() -> None:
    made = machine()
    enter(made)
    made.do(made.vm.loop.exit(made.vcpu, "some reason"))
    assert made.hand[made.vcpu.pcpu.irq] is Irq.ON
    assert made.hand[made.vcpu.mode] is Mode.OUTSIDE_GUEST_MODE
    assert [event.reason for event in made.hand.said(Exit)] == ["some reason"]


def test_leaving_twice_exits_once() -> None:
    made = machine()
    enter(made)
    for _ in range(2):
        made.do(made.vm.loop.leave(made.vcpu, "reason"))
    assert len(made.hand.said(Exit)) == 1


def test_a_vcpu_that_is_in_the_guest_does_not_enter_again() -> None:
    made = machine()
    enter(made)
    enter(made)
    assert len(made.hand.said(Enter)) == 1


def test_an_interrupted_guest_exits_at_its_next_boundary() -> None:
    made = machine()
    enter(made)
    made.hand[made.vcpu.pcpu.ipi] = Ipi.SENT
    made.hand.settle()
    assert made.hand[made.vcpu.pcpu.irq] is Irq.EXITING
    enter(made)
    assert [event.reason for event in made.hand.said(Exit)] == ["external interrupt"]
    assert len(made.hand.said(Enter)) == 2


@pytest.mark.parametrize(
    ("tagged", "requests", "flushed"),
    [(True, 0, False), (True, TLB_FLUSH, True), (False, 0, True), (False, TLB_FLUSH, True)],
)
def test_what_an_entry_flushes(tagged: bool, requests: int, flushed: bool) -> None:
    made = machine(tagged=tagged)
    made.hand[made.vcpu.pcpu.tlb] = (STALE,)
    made.hand[made.vcpu.requests] = requests
    enter(made)
    assert (made.hand[made.vcpu.pcpu.tlb] == ()) == flushed
    assert made.hand[made.vcpu.requests] == 0


def test_a_vcpu_without_a_root_loads_one_before_interrupts_are_off() -> None:
    made = machine()
    made.do(made.vm.mmu.roots.free(made.vcpu))
    made.hand.taken.clear()
    enter(made)
    assert made.hand[made.vcpu.root] != NO_ROOT
    names = used(made)
    assert "mmu_lock" in names[: names.index("mode0")]
    assert "mmu_lock" not in names[names.index("mode0") - 1 :]


@pytest.mark.parametrize(
    ("mode", "sent"), [(Mode.IN_GUEST_MODE, True), (Mode.OUTSIDE_GUEST_MODE, False)]
)
def test_only_a_vcpu_in_guest_mode_is_kicked(mode: Mode, sent: bool) -> None:
    made = machine()
    made.hand[made.vcpu.mode] = mode
    made.do(made.vm.loop.kick(made.vcpu))
    assert made.hand[made.vcpu.pcpu.ipi] is (Ipi.SENT if sent else Ipi.NONE)


# --- interrupts of the guest ---


def test_an_interrupt_is_handled_at_entry_once() -> None:
    made, seen = machine(), []

    async def handler() -> None:
        seen.append(made.hand[made.vcpu.apic].in_service)

    object.__setattr__(made.vm.loop, "handlers", {0: handler})
    made.hand[made.vcpu.apic] = Apic(requested=True)
    for _ in range(2):
        enter(made)
        made.do(made.vm.loop.leave(made.vcpu, "test"))
    assert seen == [True]
    assert made.hand[made.vcpu.apic] == Apic(served=True)


def test_a_handler_is_not_interrupted_by_another_interrupt() -> None:
    made, seen = machine(), []

    async def handler() -> None:
        seen.append("begin")
        if len(seen) == 1:
            made.hand[made.vcpu.apic] = made.hand[made.vcpu.apic]._replace(requested=True)
            await made.vm.loop.leave(made.vcpu, "in the handler")
            await made.vm.loop.to_boundary(made.vcpu, ANY_GVA)
            await made.vm.loop.leave(made.vcpu, "the handler's last exit")
        seen.append("end")

    object.__setattr__(made.vm.loop, "handlers", {0: handler})
    made.hand[made.vcpu.apic] = Apic(requested=True)
    enter(made)
    assert seen == ["begin", "end", "begin", "end"]
    assert made.hand[made.vcpu.apic] == Apic(served=True)


def test_a_vcpu_without_a_handler_keeps_its_interrupt() -> None:
    made = machine()
    made.hand[made.vcpu.apic] = Apic(requested=True)
    enter(made)
    assert made.hand[made.vcpu.apic] == Apic(requested=True)


def test_a_halted_vcpu_waits_outside_the_guest() -> None:
    made = machine()
    enter(made)
    halt = made.hand.start(made.vm.loop.halt(made.vcpu))
    while halt.enabled:
        halt.step()
    assert not halt.ended
    assert made.hand[made.vcpu.pcpu.irq] is Irq.ON
    made.hand[made.vcpu.apic] = Apic(requested=True)
    halt.finish()
    assert made.hand[made.vcpu.pcpu.irq] is Irq.GUEST


# --- translations ---


@pytest.mark.parametrize(("branch", "frame"), [(0, 9), (1, 2)])
def test_the_adversary_chooses_between_the_tlb_and_a_walk(branch: int, frame: int) -> None:
    made = bench({"A": {REGION: page(2)}}, branch=branch)
    made.do(made.guest.load(REGION))
    made.hand[made.vcpu.pcpu.tlb] = (STALE,)
    found = made.do(made.vm.loop.translate(made.vcpu, REGION, LOAD))
    assert found == (frame, branch == 0)


def test_an_entry_without_the_rights_is_walked_round() -> None:
    made = bench({"A": {REGION: page(2)}})
    made.do(made.guest.store(REGION, 1))
    made.hand[made.vcpu.pcpu.tlb] = (STALE,)
    before = len(made.hand.said(Exit))
    assert made.do(made.guest.store(REGION, 2)) is None
    assert made.word(2 << 12) == 2
    assert len(made.hand.said(Exit)) == before
