"""What guest programs can do, and what comes back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hand import Bench, bench
from vmm.bits import NX, A, D, P, U, W, frame_of, make_entry
from vmm.engine.events import Goal
from vmm.errors import UsageError
from vmm.hw.access import GuestFault
from vmm.hw.events import Access
from vmm.hw.layout import REGION, WINDOW, page
from vmm.mmu.api import EmulatedStore
from vmm.units import Gva
from vmm.vcpu.events import Exit

DATA, READ_ONLY, KERNEL, NO_CODE = (Gva(REGION + n * 0x1000) for n in range(4))
HOLE = Gva(REGION + 0x9000)


def machine(vcpus: int = 1) -> Bench:
    return bench(
        {
            "A": {
                DATA: page(2),
                READ_ONLY: page(3, writable=False),
                KERNEL: page(4, user=False),
                NO_CODE: page(5, no_execute=True),
            },
            "B": {DATA: page(6)},
        },
        vcpus=vcpus,
    )


def goals(made: Bench) -> list[str]:
    return [goal.name for goal in made.hand.said(Goal)]


# --- accesses and their faults ---


def test_what_is_stored_is_loaded() -> None:
    made = machine()
    assert made.do(made.guest.store(DATA + 8, 77)) is None
    assert made.do(made.guest.load(DATA + 8)) == 77
    assert made.word((2 << 12) + 8) == 77


def test_faults_are_values() -> None:
    made = machine()
    cpu = made.guest
    cases = [
        (cpu.load(HOLE), GuestFault(HOLE, 0)),
        (cpu.store(HOLE, 1, user=True), GuestFault(HOLE, 0b110)),
        (cpu.store(READ_ONLY, 1), GuestFault(READ_ONLY, 0b11)),
        (cpu.load(KERNEL, user=True), GuestFault(KERNEL, 0b101)),
        (cpu.fetch(NO_CODE), GuestFault(NO_CODE, 0b10001)),
        (cpu.touch(READ_ONLY, write=True, user=True), GuestFault(READ_ONLY, 0b111)),
        (cpu.store_unemulated(READ_ONLY, 1), GuestFault(READ_ONLY, 0b11)),
    ]
    assert [made.do(doing) for doing, _ in cases] == [fault for _, fault in cases]
    assert not made.hand.said(Access), "an access that faults reaches no memory"


def test_what_is_allowed_goes_through() -> None:
    made = machine()
    cpu = made.guest
    for doing in (cpu.load(READ_ONLY, user=True), cpu.fetch(READ_ONLY), cpu.load(NO_CODE)):
        assert made.do(doing) == 0
    assert made.do(cpu.touch(KERNEL, write=True)) is None


def test_a_touch_changes_nothing_but_the_marks() -> None:
    made = machine()
    made.poke(2 << 12, 5)
    assert made.do(made.guest.touch(DATA, write=True)) is None
    assert made.word(2 << 12) == 5
    (access,) = made.hand.said(Access)
    assert (access.pfn, access.write) == (2, True)


def test_a_touch_that_writes_a_shadowed_table_ends_at_the_trap() -> None:
    made = machine()
    made.do(made.guest.load(DATA))
    window = made.guest.window(DATA)
    before = made.word(window - WINDOW)
    assert made.do(made.guest.touch(window, write=True)) is None
    assert made.word(window - WINDOW) == before
    assert not made.hand.said(EmulatedStore)


# --- sizes ---

places = st.sampled_from([(size, at) for size in range(1, 9) for at in range(9 - size)])
words = st.integers(0, (1 << 64) - 1)


@pytest.mark.parametrize("shadowed", [False, True])
@settings(max_examples=40, deadline=None)
@given(place=places, old=words, value=words)
def test_a_store_changes_its_bytes_and_no_others(
    shadowed: bool, place: tuple[int, int], old: int, value: int
) -> None:
    size, at = place
    made = machine()
    gva, gpa = int(DATA), 2 << 12
    if shadowed:
        gva, gpa = made.guest.window(HOLE), made.vm.layout.gpte("A", HOLE)
        old, value = old & ~P, value & ~0x0101010101010101  # never present
    made.poke(gpa, old)
    assert made.do(made.guest.store(gva + at, value & (1 << 8 * size) - 1, size=size)) is None
    expected = bytearray(old.to_bytes(8, "little"))
    expected[at : at + size] = value.to_bytes(8, "little")[:size]
    assert made.word(gpa) == int.from_bytes(expected, "little")
    assert bool(made.hand.said(EmulatedStore)) == shadowed


@pytest.mark.parametrize(("at", "size"), [(4, 8), (7, 2), (1, 8), (0, 9), (0, 0), (0, -1)])
def test_a_store_that_crosses_a_word_is_refused(at: int, size: int) -> None:
    made = machine()
    with pytest.raises(UsageError, match="split it"):
        made.do(made.guest.store(DATA + at, 1, size=size))


# --- the guest's own tables ---


def test_a_gpte_is_written_through_the_guests_map() -> None:
    made = machine()
    assert made.do(made.guest.store_pte(DATA, frame=7, writable=False, no_execute=True)) is None
    gpte = made.word(made.vm.layout.gpte("A", DATA))
    assert frame_of(gpte) == 7
    assert gpte & (P | W | U | NX | A | D) == P | U | NX | A | D
    made.do(made.guest.store_pte(DATA, frame=None))
    assert made.word(made.vm.layout.gpte("A", DATA)) == 0


def test_an_upper_entry_and_another_space_can_be_named() -> None:
    made = machine()
    made.do(made.guest.store_pte(DATA, frame=0x13, space="B", level=2))
    entry = made.word(made.vm.layout.gpte("B", DATA, 2))
    assert entry == make_entry(0x13, P | W | U), "an upper entry has no D, and A is for the walk"


@pytest.mark.parametrize("target", ["B", 0x14])
def test_cr3_takes_a_space_or_a_frame(target: str | int) -> None:
    made = machine()
    made.poke(6 << 12, 66)
    made.do(made.guest.load(DATA))
    made.do(made.guest.mov_cr3(target))
    assert made.do(made.guest.load(DATA)) == 66


def test_invlpg_does_not_exit() -> None:
    made = machine()
    made.do(made.guest.load(DATA))
    made.do(made.guest.load(READ_ONLY))
    before = len(made.hand.said(Exit))
    made.do(made.guest.invlpg(DATA))
    assert len(made.hand.said(Exit)) == before
    assert [entry.page for entry in made.hand[made.vcpu.pcpu.tlb]] == [READ_ONLY >> 12]


def test_a_store_to_a_shadowed_table_is_emulated_and_the_shadow_follows() -> None:
    made = machine()
    made.poke(7 << 12, 70)
    assert made.do(made.guest.load(DATA)) == 0
    made.do(made.guest.store_pte(DATA, frame=7))
    assert made.do(made.guest.load(DATA)) == 70
    assert "store emulated" in goals(made)


# --- what the emulator does not know ---


def elsewhere() -> Bench:
    """After vCPU 0 has run in space B, whose tables are shadowed, and has left the guest."""
    made = machine(vcpus=2)
    made.do(made.guest.mov_cr3("B"))
    made.do(made.guest.load(DATA))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    return made


def test_an_unknown_store_unprotects_the_table() -> None:
    made = elsewhere()
    cpu = made.guests[1]
    made.do(cpu.store_unemulated(cpu.window(HOLE, "B"), 0x55), 1)
    assert made.word(made.vm.layout.gpte("B", HOLE)) == 0x55
    assert not made.hand.said(EmulatedStore)
    assert "table unprotected" in goals(made)


def test_an_unknown_store_to_a_root_in_use_cannot_go_on() -> None:
    made = elsewhere()
    cpu = made.guests[1]
    with pytest.raises(UsageError, match="is a root in use"):
        made.do(cpu.store_unemulated(cpu.window(DATA, "B", 4) + 8, 0), 1)
