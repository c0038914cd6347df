"""What guest programs can do, and what comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hand import Bench, bench
from vmm.bits import NX, A, D, P, U, W, frame_of, make_entry
from vmm.engine.events import Goal
from vmm.engine.ops import Cas
from vmm.errors import UsageError
from vmm.hw.access import GuestFault
from vmm.hw.events import Access
from vmm.hw.layout import REGION, WINDOW, page
from vmm.mmu.api import EmulatedStore
from vmm.mmu.emulator import EmulationFailed
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

sizes = st.integers(1, 16)
words = st.integers(0, (1 << 64) - 1)
values = st.integers(0, (1 << 128) - 1)


def memory_at(made: Bench, gpa: int, words_: int) -> bytes:
    return b"".join(made.word(gpa + 8 * n).to_bytes(8, "little") for n in range(words_))


@given(at=st.integers(0, 72), size=sizes, old=words, value=values)
def test_a_store_changes_its_bytes_and_no_others(at: int, size: int, old: int, value: int) -> None:
    made = machine()
    first = 2 << 12
    for n in range(12):
        made.poke(first + 8 * n, old)
    expected = bytearray(memory_at(made, first, 12))
    value &= (1 << 8 * size) - 1
    assert made.do(made.guest.store(DATA + at, value, size=size)) is None
    expected[at : at + size] = value.to_bytes(16, "little")[:size]
    assert memory_at(made, first, 12) == bytes(expected)


@given(at=st.integers(0, 15), size=st.integers(1, 8), old=words, value=values)
def test_an_emulated_store_does_the_same(at: int, size: int, old: int, value: int) -> None:
    made = machine()
    gva, gpa = made.guest.window(HOLE), made.vm.layout.gpte("A", HOLE)
    never_present = 0x0101010101010101
    for n in range(3):
        made.poke(gpa + 8 * n, old & ~never_present)
    expected = bytearray(memory_at(made, gpa, 3))
    value &= ~never_present & (1 << 8 * size) - 1
    assert made.do(made.guest.store(gva + at, value, size=size)) is None
    expected[at : at + size] = value.to_bytes(8, "little")[:size]
    assert memory_at(made, gpa, 3) == bytes(expected)
    assert [event.gpa for event in made.hand.said(EmulatedStore)] == [
        word for word in (gpa, gpa + 8, gpa + 16) if word < gpa + at + size and word + 8 > gpa + at
    ]


@pytest.mark.parametrize(
    ("at", "size", "writes"),
    [
        (0, 8, 1),
        (4, 8, 1),  # unaligned, but within a cache line
        (60, 8, 2),
        (63, 2, 2),
        (0, 16, 2),
        (4, 16, 3),
    ],
)
def test_a_store_reaches_memory_in_as_many_parts_as_a_processor_makes(
    at: int, size: int, writes: int
) -> None:
    made = machine()
    made.do(made.guest.store(DATA + at, 0, size=size))
    assert len(made.hand.said(Access)) == writes


def test_a_store_across_pages_goes_to_both() -> None:
    made = bench({"A": {DATA: page(2), READ_ONLY: page(7)}})
    assert made.do(made.guest.store(READ_ONLY - 3, 0x1122334455667788)) is None
    assert made.word((3 << 12) - 8) == 0x6677880000000000
    assert made.word(7 << 12) == 0x1122334455
    assert [event.pfn for event in made.hand.said(Access)] == [2, 7]


def test_a_store_across_pages_that_faults_on_the_second_stores_nothing() -> None:
    made = machine()
    assert made.do(made.guest.store(READ_ONLY - 3, ~0 & (1 << 64) - 1)) == GuestFault(READ_ONLY, 3)
    assert made.word((3 << 12) - 8) == 0
    assert not made.hand.said(Access)


def test_a_store_across_shadowed_tables_is_checked_whole_and_stored_page_by_page() -> None:
    made = machine()
    made.do(made.guest.load(DATA))
    last = made.vm.layout.gpte("A", DATA, 2) | 0xFFD  # 3 bytes in the L2 table, 5 in the leaf table
    made.do(made.guest.store(WINDOW + last, 0))
    assert [event.gpa for event in made.hand.said(EmulatedStore)] == [last & ~7, last + 3]
    assert made.pages(0x12) == [], "3 bytes are too short to say what an entry is now"
    assert len(made.pages(0x13)) == 1, "5 bytes lie within one entry"
    assert made.spte(made.pages(0x13)[0], 0) == 0


@given(first=st.integers(0, 20), words=st.integers(0, 40), size=st.sampled_from([1, 4, 8]))
def test_a_string_store_fills_its_words_and_no_others(first: int, words: int, size: int) -> None:
    made = machine()
    expected = bytearray(memory_at(made, 2 << 12, 70))
    at, times = 8 * first, 8 * words // size
    assert made.do(made.guest.store_string(DATA + at, 7, size, times)) is None
    expected[at : at + times * size] = (7).to_bytes(size, "little") * times
    assert memory_at(made, 2 << 12, 70) == bytes(expected)


def test_a_string_store_is_interrupted_between_cache_lines_only() -> None:
    made = machine()
    made.do(made.guest.store(DATA, 0))
    before = len(made.hand.taken)
    made.do(made.guest.store_string(DATA + 48, 1, 8, 12))
    looks = [op for op in made.hand.taken[before:] if made.vm.vcpus[0].pcpu.irq in op.cells]
    assert len(looks) == 3, "two words, eight, two"


def test_a_string_store_to_a_shadowed_table_is_emulated_until_it_is_a_flood() -> None:
    made = elsewhere()
    cpu = made.guests[1]
    assert made.do(cpu.store_string(cpu.window(DATA, "B"), 0, 8, 16), 1) is None
    assert len(made.hand.said(EmulatedStore)) == 3
    table = made.vm.layout.gpte("B", DATA)
    assert memory_at(made, table, 16) == bytes(128)


def test_a_string_is_of_words() -> None:
    made = machine()
    with pytest.raises(UsageError, match="no string of words"):
        made.do(made.guest.store_string(DATA, 7, 4, 3))


def test_a_string_store_says_what_it_met() -> None:
    made = machine()
    assert made.do(made.guest.store_string(READ_ONLY, 0, 8, 8)) == GuestFault(READ_ONLY, 3)


@pytest.mark.parametrize("size", [-1, 0, 17])
def test_there_is_no_such_operand(size: int) -> None:
    made = machine()
    with pytest.raises(UsageError, match="the largest operand has 16"):
        made.do(made.guest.store(DATA, 1, size=size))


# --- locked instructions ---


@pytest.mark.parametrize("shadowed", [False, True])
@pytest.mark.parametrize("old", [5, 6])
def test_an_exchange_stores_if_it_finds_what_it_expects(shadowed: bool, old: int) -> None:
    made = machine()
    gva, gpa = int(DATA), 2 << 12
    if shadowed:
        gva, gpa = made.guest.window(HOLE), made.vm.layout.gpte("A", HOLE)
        made.do(made.guest.load(DATA))
    made.poke(gpa, 5 << 1)
    assert made.do(made.guest.compare_exchange(gva, old << 1, 8)) is (old == 5)
    assert made.word(gpa) == (8 if old == 5 else 10)
    assert ("exchange emulated" in goals(made)) is shadowed


def test_an_exchange_of_a_gpte_brings_the_shadow_along() -> None:
    made = machine()
    made.do(made.guest.load(DATA))
    made.poke(7 << 12, 70)
    gpte = made.vm.layout.gpte("A", DATA)
    old = made.word(gpte)
    new = make_entry(7, P | W | U | A | D)
    assert made.do(made.guest.compare_exchange(made.guest.window(DATA), old, new)) is True
    assert made.do(made.guest.load(DATA)) == 70


def test_an_exchange_reads_again_if_another_was_faster() -> None:
    made = machine()
    made.do(made.guest.load(DATA))
    gpte = made.vm.layout.gpte("A", HOLE)
    doing = made.hand.start(made.guest.compare_exchange(made.guest.window(HOLE), 0, 8), 0)
    doing.until(lambda op: isinstance(op, Cas) and op.cell.name.startswith("gpte"))
    made.poke(gpte, 2)
    assert doing.finish() is False
    assert made.word(gpte) == 2


def test_faults_and_unaligned_exchanges() -> None:
    made = machine()
    assert made.do(made.guest.compare_exchange(READ_ONLY, 0, 1)) == GuestFault(READ_ONLY, 3)
    with pytest.raises(UsageError, match="not aligned"):
        made.do(made.guest.compare_exchange(DATA + 4, 0, 1))


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


@pytest.mark.parametrize("target", ["B", 0x14000])
def test_cr3_takes_a_space_or_a_value(target: str | int) -> None:
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


def test_an_operand_larger_than_the_emulator_knows_unprotects_the_table() -> None:
    made = elsewhere()
    cpu = made.guests[1]
    made.do(cpu.store(cpu.window(HOLE, "B"), 0x55, size=16), 1)
    assert made.word(made.vm.layout.gpte("B", HOLE)) == 0x55
    assert not made.hand.said(EmulatedStore)
    assert "table unprotected" in goals(made)


def test_an_unknown_store_to_a_root_in_use_ends_the_vm() -> None:
    made = elsewhere()
    cpu = made.guests[1]
    gva = cpu.window(DATA, "B", 4) + 8
    assert made.do(cpu.store_unemulated(gva, 1), 1) == EmulationFailed(gva)
    assert made.word(gva - WINDOW) == 0
    assert "emulation failed" in goals(made)
