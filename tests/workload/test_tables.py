"""The truth about guest tables: against a real guest's RAM, and against tables made by hand."""

import struct
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.workload.ptrace import (
    Checkpoint,
    FirstTouch,
    PageBecomesTable,
    PageFault,
    Recording,
    TablePage,
    read_recording,
)
from vmm.workload.tables import (
    ACCESSED,
    DIRTY,
    GLOBAL,
    NX,
    PAGE_SIZE_BIT,
    PRESENT,
    USER,
    WRITE,
    GuestTables,
    RecordedGuest,
    Rights,
    Translation,
    fault_code,
    is_canonical,
)

SMALL = Path(__file__).parents[2] / "scenarios" / "data" / "dev_smp2_small.ptrace.xz"

ROOT, MID, LOW, LAST = 0x10, 0x11, 0x12, 0x13
CR3 = ROOT << 12
ALL = PRESENT | WRITE | USER
GVA = 3 << 39 | 5 << 30 | 7 << 21 | 9 << 12
KERNEL = 0xFFFF << 48

# The path to GVA, one table a level.
CHAIN = {
    (ROOT, 3): MID << 12 | ALL,
    (MID, 5): LOW << 12 | ALL,
    (LOW, 7): LAST << 12 | ALL,
    (LAST, 9): 0xABC000 | ALL,
}


def tables(entries: dict[tuple[int, int], int]) -> GuestTables:
    """Guest tables with these entries by (pfn, index), under the one root."""
    made = GuestTables()
    made.load_root(CR3)
    for (pfn, index), entry in entries.items():
        made.store((pfn << 12) + 8 * index, 8, entry)
    return made


def walk(entries: dict[tuple[int, int], int], gva: int = GVA) -> Translation:
    """The walk for a gva that these entries map."""
    found = tables(entries).walk(CR3, gva)
    assert found is not None
    return found


@cache
def recording() -> Recording:
    return read_recording(SMALL)


def explains(found: Translation | None, fault: PageFault) -> bool:
    """Whether the access that the error code tells of meets this very fault."""
    write, user, fetch = (bool(fault.error & bit) for bit in (1 << 1, 1 << 2, 1 << 4))
    return fault_code(found, write=write, user=user, fetch=fetch) == fault.error


def permits(found: Translation | None, touch: FirstTouch) -> bool:
    """Whether the touch goes through, and to where the recorder saw it go."""
    fetch = touch.kind == "x"
    if found is None or fault_code(found, write=touch.writes, user=touch.user, fetch=fetch):
        return False
    return touch.gpa in {None, found.gpa}


def test_the_recorded_guest_agrees_at_every_event() -> None:
    guest = RecordedGuest(recording())
    wrong, checkpoints = [], 0
    for event in recording().events:
        right = True
        match event:
            case Checkpoint():
                checkpoints += 1
                pages, sha, sha_ad = guest.tables.digest()
                told = (event.pages, event.sha, event.sha_ad)
                right = (pages, sha[:32], sha_ad[:32]) == told
            case PageFault():
                right = explains(guest.walk(event.cpu, event.cr2), event)
            case FirstTouch():
                right = permits(guest.walk(event.cpu, event.gva), event)
        if not right:
            wrong.append(event)
        guest.apply(event)
    assert not wrong
    assert checkpoints == 73
    header = recording().header
    assert guest.tables.digest()[1:] == (header.final_digest, header.final_digest_ad)


def test_the_leaves_of_a_real_guest_are_what_walks_find() -> None:
    guest = RecordedGuest(recording())
    levels = set()
    for root in guest.tables.roots:
        leaves = list(islice(guest.tables.leaves(root), 2000))  # the user half, and some above
        assert leaves == sorted(leaves)
        for leaf in leaves:
            assert guest.tables.walk(root << 12, leaf.gva) == leaf
            levels.add(leaf.level)
    assert levels == {1, 2}


def test_a_4k_page_translates_with_its_offset_and_path() -> None:
    found = walk(CHAIN, GVA | 0xDEF)
    assert (found.gpa, found.level) == (0xABCDEF, 1)
    assert found.rights == Rights(write=True, user=True, nx=False)
    assert found.path == tuple((pfn * 4096 + i * 8, e) for (pfn, i), e in CHAIN.items())
    assert found.entry == CHAIN[LAST, 9]


@pytest.mark.parametrize(
    ("at", "level", "offset"),
    [((LOW, 7), 2, 9 << 12 | 0x123), ((MID, 5), 3, 7 << 21 | 9 << 12 | 0x123)],
)
def test_a_large_page_ends_the_walk(at: tuple[int, int], level: int, offset: int) -> None:
    entry = 5 << 30 | 0x1000 | PAGE_SIZE_BIT | ALL  # bit 12 of a large page selects its PAT
    found = walk(CHAIN | {at: entry}, GVA | 0x123)
    assert (found.gpa, found.level) == (5 << 30 | offset, level)
    assert found.entry == entry


def test_the_size_bit_means_nothing_at_the_root_and_in_a_last_table() -> None:
    ignored = {at: CHAIN[at] | PAGE_SIZE_BIT for at in ((ROOT, 3), (LAST, 9))}
    assert walk(CHAIN | ignored).gpa == 0xABC000


@pytest.mark.parametrize("at", CHAIN)
def test_an_entry_that_is_not_present_ends_the_walk(at: tuple[int, int]) -> None:
    assert tables(CHAIN | {at: CHAIN[at] & ~PRESENT}).walk(CR3, GVA) is None


@pytest.mark.parametrize("at", CHAIN)
def test_every_level_can_take_rights_away(at: tuple[int, int]) -> None:
    assert walk(CHAIN | {at: CHAIN[at] & ~WRITE}).rights == Rights(False, True, False)
    assert walk(CHAIN | {at: CHAIN[at] & ~USER}).rights == Rights(True, False, False)
    assert walk(CHAIN | {at: CHAIN[at] | NX}).rights == Rights(True, True, True)


def test_only_the_leaf_can_be_global() -> None:
    assert not walk(CHAIN | {(LOW, 7): CHAIN[LOW, 7] | GLOBAL}).is_global
    assert walk(CHAIN | {(LAST, 9): CHAIN[LAST, 9] | GLOBAL}).is_global


@pytest.mark.parametrize(
    "gva", [1 << 47, 1 << 48, KERNEL | GVA & ~KERNEL, (1 << 64) - 1 - (1 << 47)]
)
def test_an_address_that_is_not_canonical_translates_to_nothing(gva: int) -> None:
    everywhere = {(ROOT, index): CHAIN[ROOT, 3] for index in range(512)}
    assert not is_canonical(gva)
    assert tables(CHAIN | everywhere).walk(CR3, gva) is None


def test_cr3_bits_that_are_no_address_are_ignored() -> None:
    assert tables(CHAIN).walk(CR3 | 0x18, GVA) == walk(CHAIN)


@pytest.mark.parametrize(
    ("bits", "write", "user", "fetch", "code"),
    [
        (ALL, True, True, True, None),
        (ALL & ~WRITE, True, False, False, 0b00011),
        (ALL & ~WRITE, True, True, False, 0b00111),
        (ALL & ~WRITE, False, True, False, None),
        (ALL & ~USER, False, True, False, 0b00101),
        (ALL & ~USER, True, False, False, None),
        (ALL | NX, False, True, True, 0b10101),
        (ALL | NX, True, True, False, None),
        (0, False, False, False, 0b00000),
        (0, True, True, False, 0b00110),
        (0, False, True, True, 0b10100),
    ],
)
def test_faults_carry_the_code_of_the_manual(
    bits: int, write: bool, user: bool, fetch: bool, code: int | None
) -> None:
    found = tables(CHAIN | {(LAST, 9): 0xABC000 | bits}).walk(CR3, GVA)
    assert fault_code(found, write=write, user=user, fetch=fetch) == code


@pytest.mark.parametrize("write", [False, True])
def test_an_access_marks_every_level_accessed_and_only_a_written_leaf_dirty(write: bool) -> None:
    made = tables(CHAIN)
    made.set_accessed_dirty(CR3, GVA, write=write)
    marks = [ACCESSED, ACCESSED, ACCESSED, ACCESSED | DIRTY * write]
    expected = [entry | mark for entry, mark in zip(CHAIN.values(), marks, strict=True)]
    assert [made.entry(*at) for at in CHAIN] == expected


def test_an_access_to_nothing_cannot_be_marked() -> None:
    with pytest.raises(LookupError, match="nothing is mapped at gva 1000 under cr3 10000"):
        tables(CHAIN).set_accessed_dirty(CR3, 0x1000, write=False)


def test_leaves_come_in_order_with_canonical_addresses_and_all_sizes() -> None:
    made = tables(
        CHAIN
        | {
            (ROOT, 511): MID << 12 | ALL,
            (MID, 6): 1 << 30 | PAGE_SIZE_BIT | ALL,
            (LOW, 8): 1 << 21 | PAGE_SIZE_BIT | ALL,
            (LAST, 10): 0xDEF000,
        }
    )
    low = [GVA, 3 << 39 | 5 << 30 | 8 << 21, 3 << 39 | 6 << 30]
    high = [KERNEL | gva & ~(511 << 39) | 511 << 39 for gva in low]
    leaves = list(made.leaves(ROOT))
    assert [leaf.gva for leaf in leaves] == low + high
    assert [leaf.level for leaf in leaves] == [1, 2, 3] * 2
    assert leaves == [made.walk(CR3, leaf.gva) for leaf in leaves]


def test_pages_are_live_while_a_root_reaches_them() -> None:
    made = tables(CHAIN)
    assert made.live() == {ROOT: 4, MID: 3, LOW: 2, LAST: 1}
    made.store((LOW << 12) + 8 * 7, 8, LAST << 12 | PAGE_SIZE_BIT | ALL)
    assert made.live() == {ROOT: 4, MID: 3, LOW: 2}
    made.load_root(0x20000)
    made.store(0x20000, 8, LOW << 12 | ALL)
    made.drop_root(ROOT)
    assert made.live() == {0x20: 4, LOW: 3}
    assert made.roots == {0x20}
    made.load_root(CR3)
    assert made.live() == {ROOT: 4, MID: 3, 0x20: 4, LOW: 3}


def test_a_shared_table_is_live_until_its_last_root_goes() -> None:
    made = tables(CHAIN)
    made.load_root(0x20000)
    made.store(0x20000, 8, MID << 12 | ALL)
    made.drop_root(0x20)
    assert len(made.live()) == 4
    made.drop_root(ROOT)
    assert made.live() == {}


def test_a_placed_page_forgets_what_it_held() -> None:
    made = tables(CHAIN)
    assert LAST in made.live()
    made.place(PageBecomesTable(1, LOW, 2, ()))
    assert made.live() == {ROOT: 4, MID: 3, LOW: 2}
    made.place(PageBecomesTable(2, LOW, 2, ((1, LAST << 12 | ALL),)))
    assert made.live() == {ROOT: 4, MID: 3, LOW: 2, LAST: 1}
    assert made.entry(LOW, 7) == 0


def test_every_root_of_the_snapshot_is_live() -> None:
    made = GuestTables([TablePage(1, ROOT, 4, ()), TablePage(2, MID, 3, ())])
    assert made.live() == {ROOT: 4}


def test_the_digest_is_sha256_over_live_pages_with_and_without_marks() -> None:
    made = tables({(ROOT, 0): MID << 12 | ALL | ACCESSED, (MID, 511): DIRTY})
    first = [MID << 12 | ALL | ACCESSED] + [0] * 511
    second = [0] * 511 + [DIRTY]
    full = struct.pack("<513Q", ROOT, *first) + struct.pack("<513Q", MID, *second)
    first[0] &= ~ACCESSED
    second[511] = 0
    bare = struct.pack("<513Q", ROOT, *first) + struct.pack("<513Q", MID, *second)
    assert made.digest() == (2, sha256(bare).hexdigest(), sha256(full).hexdigest())


def test_a_linked_page_that_nobody_wrote_is_digested_as_zeros() -> None:
    made = tables({(ROOT, 0): MID << 12 | ALL})
    before = made.digest()
    made.store(MID << 12, 8, 0)
    assert made.digest() == before


@st.composite
def stores(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """A store as a recording may hold it: gpa, size, value, count, all within one of two pages."""
    size = draw(st.sampled_from([1, 2, 4, 8]))
    first = draw(st.integers(0, 4096 // size - 1))
    count = draw(st.integers(1, 4096 // size - first))
    value = draw(st.integers(0, (1 << 8 * size) - 1))
    return draw(st.sampled_from([0x5000, 0x6000])) + first * size, size, value, count


@given(st.lists(stores(), max_size=6))
def test_stores_leave_the_bytes_that_single_byte_stores_would(
    history: list[tuple[int, int, int, int]],
) -> None:
    made, ram = GuestTables(), {}
    for gpa, size, value, count in history:
        made.store(gpa, size, value, count)
        for at in range(size * count):
            ram[gpa + at] = value >> 8 * (at % size) & 0xFF
    for pfn in (5, 6):
        for index in range(512):
            expected = sum(ram.get(pfn * 4096 + index * 8 + at, 0) << 8 * at for at in range(8))
            assert made.entry(pfn, index) == expected
