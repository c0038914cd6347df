"""MMIO sptes by hand: when one is made, found, stale, and gone."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from vmm.bits import P, format_spte
from vmm.engine.grace import Flip
from vmm.features import mmio_sptes
from vmm.features.memslots import UNCLAIMED, MmioExit
from vmm.features.mmio_sptes import GENERATIONS, LastMmio, generation_of, is_marker, make_marker
from vmm.hw.access import GuestFault
from vmm.hw.layout import REGION, page
from vmm.units import Gfn

DEVICE, OTHER = REGION, REGION + 0x1000
FRAME = 0x1000
SPACES = {"A": {int(DEVICE): page(FRAME), int(OTHER): page(3)}}
LOW = (0, FRAME)
HOST = 1


def machine(*features: str) -> Bench:
    made = bench(SPACES, features=("mmio-sptes", *features), memslots=(LOW,))
    made.do(made.vm.mmu.roots.load(made.vcpu))
    return made


def load(made: Bench, gva: int = DEVICE) -> int | GuestFault:
    """Load, and be out of the guest again."""
    value = made.do(made.guest.load(gva))
    made.do(made.vm.loop.leave(made.vcpu, "halt"))
    return value


def markers(made: Bench) -> list[int]:
    return [
        made.hand[cell]
        for cell in made.vm.mmu.cache.sptes.cells.values()
        if is_marker(made.hand[cell])
    ]


def goals(made: Bench) -> list[str]:
    return [event.name for event in made.hand.events if hasattr(event, "name")]


def last(made: Bench) -> LastMmio:
    assert isinstance(made.vcpu, mmio_sptes.Vcpu)
    found: LastMmio = made.hand[made.vcpu.last_mmio]
    return found


def test_a_marker_is_not_present_and_says_all() -> None:
    marker = make_marker(Gfn(0x1234), GENERATIONS + 1)
    assert is_marker(marker)
    assert not marker & P
    assert generation_of(marker) == 1
    assert format_spte(marker) == "MMIO gfn 0x1234"


def test_the_second_access_finds_the_marker_and_takes_no_lock() -> None:
    made = machine()
    assert load(made) == UNCLAIMED
    assert markers(made) == [make_marker(Gfn(FRAME), 0)]
    before = len(made.hand.taken)
    assert load(made) == UNCLAIMED
    assert not any(op.kind == "acquire" for op in made.hand.taken[before:])
    assert len(made.hand.said(MmioExit)) == 2
    assert "MMIO spte used" in goals(made)


def test_a_marker_of_older_slots_is_replaced() -> None:
    made = machine()
    load(made)
    made.do(made.host.create_slot(FRAME), HOST)
    assert load(made) == 0
    assert "stale MMIO spte met" in goals(made)
    assert markers(made) == []
    assert len(made.hand.said(MmioExit)) == 1


def test_a_change_elsewhere_makes_it_stale_too() -> None:
    made = machine()
    load(made)
    made.do(made.host.create_slot(2 * FRAME), HOST)
    assert load(made) == UNCLAIMED
    assert markers(made) == [make_marker(Gfn(FRAME), 1)]


def test_nothing_counts_while_the_slots_are_updated() -> None:
    made = machine()
    load(made)
    changing = made.hand.start(made.host.create_slot(2 * FRAME), HOST)
    changing.until(lambda op: isinstance(op, Flip))
    load(made)
    load(made)
    assert "MMIO spte used" not in goals(made)
    changing.finish()
    load(made)
    assert "MMIO spte used" not in goals(made), "it was made of the slots before"
    load(made)
    assert "MMIO spte used" in goals(made)


def test_the_emulator_asks_what_the_fault_found() -> None:
    made = machine()
    load(made)
    assert last(made) == LastMmio(FRAME, 0)
    emulates = made.vm.mmu.emulator
    assert isinstance(emulates, mmio_sptes.Emulator)
    before = len(made.hand.taken)
    assert not made.do(emulates.has_memory(made.vcpu, Gfn(FRAME)))
    assert len(made.hand.taken) == before + 2, "its own record, and the generation"
    made.do(made.host.create_slot(FRAME), HOST)
    assert made.do(emulates.has_memory(made.vcpu, Gfn(FRAME)))


def test_markers_go_with_their_page() -> None:
    made = machine()
    load(made)
    made.do(made.host.zap_all(), HOST)
    assert markers(made) == []
    for shadow in made.vm.mmu.cache.pages:
        assert made.hand[shadow.present] == ()


def test_all_go_before_the_generation_comes_round() -> None:
    made = machine()
    for n in range(GENERATIONS):
        load(made)
        assert len(markers(made)) == 1
        made.do(made.host.create_slot((n + 2) * FRAME), HOST)
    assert markers(made) == []
    assert "MMIO generations come round" in goals(made)


@pytest.mark.parametrize("gva", [DEVICE, OTHER])
def test_a_sync_of_the_table_drops_markers(gva: int) -> None:
    made = machine("unsync")
    load(made)
    load(made, OTHER)
    made.do(made.guest.store_pte(gva, frame=4))
    made.do(made.guest.mov_cr3("A"))
    load(made, OTHER)
    assert markers(made) == []
    assert load(made) == (0 if gva == DEVICE else UNCLAIMED)
