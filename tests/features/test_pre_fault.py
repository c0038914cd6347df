"""Pre-faults by hand."""

from __future__ import annotations

from tests.hand import Bench, bench
from vmm.engine.grace import Drained, Readers
from vmm.features.memslots import MmioExit, slots_of
from vmm.hw.layout import REGION, page
from vmm.vcpu.events import Enter, UserExit

DATA, DEVICE, NOTHING = REGION, REGION + 0x1000, REGION + 0x9000
FRAME, NO_FRAME = 0x1000, 0x2000
HOST = 1


def machine() -> Bench:
    return bench(
        {"A": {int(DATA): page(FRAME), int(DEVICE): page(NO_FRAME)}},
        features=("pre-fault",),
        memslots=((0, FRAME), (FRAME, 1)),
    )


def test_a_page_is_mapped_without_the_guest() -> None:
    made = machine()
    assert made.do(made.guest.pre_fault(DATA)) is True
    assert len(made.leaves()) == 1
    assert not made.hand.said(Enter)


def test_what_cannot_be_mapped_is_no_error() -> None:
    made = machine()
    assert made.do(made.guest.pre_fault(DEVICE)) is True
    assert made.do(made.guest.pre_fault(NOTHING)) is True
    assert made.leaves() == {}
    assert not made.hand.said(MmioExit)


def test_an_invalid_slot_ends_it_and_its_section() -> None:
    made = machine()
    deleting = made.hand.start(made.host.delete_slot(FRAME), HOST)
    deleting.until(lambda op: isinstance(op, Drained))
    assert made.do(made.guest.pre_fault(DATA)) is False
    assert made.hand.said(UserExit) == [UserExit(0, "-EAGAIN")]
    assert made.hand[slots_of(made.vm.mmu).srcu] == Readers(1)
    deleting.finish()
