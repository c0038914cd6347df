"""The notifier and the slots by hand: when a lock is taken, and who waits for whom."""

from __future__ import annotations

from tests.hand import Bench, bench
from vmm.engine.ops import Op
from vmm.features import notifier_by_slot
from vmm.features.memslots import MemslotsPublished
from vmm.hw.events import GiveBack
from vmm.hw.layout import REGION, page
from vmm.units import Pfn

FRAME, NO_FRAME = 2, 0x2000
HOST, OTHER = 1, 2


def machine() -> Bench:
    return bench(
        {"A": {int(REGION): page(FRAME)}}, features=("notifier-by-slot",), memslots=((0, 0x1000),)
    )


def slots(made: Bench) -> notifier_by_slot.Memslots:
    assert isinstance(made.vm.mmu.slots, notifier_by_slot.Memslots)
    return made.vm.mmu.slots


def acquired(made: Bench) -> int:
    return sum(op.kind == "acquire" for op in made.hand.taken)


def test_a_range_without_a_slot_takes_no_lock() -> None:
    made = machine()
    made.do(made.host.unmap(NO_FRAME), HOST)
    assert acquired(made) == 0
    assert made.hand.said(GiveBack), "its memory goes all the same"
    made.do(made.host.unmap(FRAME), HOST)
    assert acquired(made) == 2
    assert made.hand[slots(made).count] == made.hand[slots(made).active] == 0


def test_a_page_is_a_range_of_one() -> None:
    made = machine()
    made.do(made.guest.load(REGION))
    made.do(made.vm.loop.leave(made.vcpu, "halt"))
    assert made.do(made.host.reclaim(FRAME), HOST) is True
    assert made.leaves() == {}
    assert made.do(made.host.reclaim(FRAME), HOST) is False


def test_slots_change_when_no_invalidation_is_under_way() -> None:
    made = machine()
    unmapping = made.hand.start(made.host.unmap(FRAME), HOST)
    unmapping.until(lambda op: op.event == GiveBack(Pfn(FRAME)))
    changing = made.hand.start(made.host.create_slot(NO_FRAME), OTHER)

    def publishes(op: Op) -> bool:
        return isinstance(op.event, MemslotsPublished)

    changing.until(publishes)
    assert not changing.enabled
    unmapping.finish()
    assert changing.enabled
    changing.finish()
