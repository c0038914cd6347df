"""``walk_many`` gives what the step walk gives, and what a real guest's tables say."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from itertools import islice, takewhile
from pathlib import Path

import numpy as np
import pytest

from tests.hw.emulated import TABLE_PAGES, TABLES
from tests.hw.random_tables import Access, Trial, trial_of
from tests.hw.truth import MODES, Bytes, Word, finish, registers_of
from vmm.bits import NX, A, D, P, U, W
from vmm.hw.access import LOAD, AccessKind, GuestFault
from vmm.hw.paging import Controls, PagingMode, PagingRegisters
from vmm.hw.walker import Snapshot, Walk, Walker, Walks, kind_codes, walk_many
from vmm.hw.walker_bulk import CHUNK, GENERAL_PROTECTION, THROUGH
from vmm.units import Gva
from vmm.workload.ptrace import read_recording
from vmm.workload.tables import GuestTables, Translation, fault_code


def pages_of(trial: Trial) -> dict[int, bytes]:
    first = TABLES >> 12
    return {first + n: trial.tables[4096 * n : 4096 * n + 4096] for n in range(TABLE_PAGES)}


def row(walks: Walks, lane: int) -> tuple[int, int, list[tuple[int, int]]]:
    """Code, gpa, and the entries that the walk read, as it left them."""
    steps = zip(walks.step_gpa[:, lane].tolist(), walks.step_entry[:, lane].tolist(), strict=True)
    return int(walks.code[lane]), int(walks.gpa[lane]), [step for step in steps if step[0]]


def stepped(registers: PagingRegisters, memory: Bytes, access: Access) -> tuple[object, ...]:
    found = finish(Walker(memory).translate(registers, Gva(access.gva), access.kind))
    if isinstance(found, Walk):
        return THROUGH, found.gpa, [(step.gpa, step.entry) for step in found.steps]
    code = found.error_code if isinstance(found, GuestFault) else GENERAL_PROTECTION
    return code, 0


def entry_at(memory: Bytes, gpa: int, mode: PagingMode) -> int:
    size = 4 if mode is PagingMode.BITS32 else 8
    return int.from_bytes(memory.content[gpa : gpa + size], "little")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_both_faces_agree_in_every_mode(mode: PagingMode) -> None:
    through = 0
    for seed in range(6):
        trial = trial_of(mode, seed, 250, fixed=0)
        snapshot = Snapshot(pages_of(trial))
        for ac in (False, True):
            registers = registers_of(trial, ac=ac)
            gvas = np.array([access.gva for access in trial.accesses], np.uint64)
            kinds = kind_codes(access.kind for access in trial.accesses)
            walks = walk_many(snapshot, registers, gvas, kinds, steps=True)
            for lane, access in enumerate(trial.accesses):
                memory = Bytes(bytes(TABLES) + trial.tables)
                expected = stepped(registers, memory, access)
                code, gpa, steps = row(walks, lane)
                assert (code, gpa, steps)[: len(expected)] == expected, access
                for at, entry in steps:
                    held = int.from_bytes(
                        memory.content[at : at + (4 if mode is MODES[0] else 8)], "little"
                    )
                    assert held == entry or (
                        mode is PagingMode.PAE and at & -4096 == trial.cr3 & -4096
                    )
                through += code == THROUGH
    assert 500 < through < 2500, "neither all nor nothing goes through"


# --- a real guest ---

SMALL = Path(__file__).parents[2] / "scenarios" / "data" / "dev_smp2_small.ptrace.xz"
KERNEL_HALF = 1 << 63
WP_AND_NX = Controls()  # as the recorded guest runs
USER_STORE = AccessKind(write=True, user=True)


class Pages(Bytes):
    """The tables of a guest as memory of the step walk."""

    def __init__(self, pages: dict[int, bytes]) -> None:
        super().__init__(b"")
        self.pages = {pfn: bytearray(page) for pfn, page in pages.items()}

    def word(self, address: int) -> Word:
        return Word(self.pages[address >> 12], address & 0xFF8)


def words_of(tables: GuestTables) -> dict[int, bytes]:
    return {
        pfn: struct.pack("<512Q", *(tables.entry(pfn, index) for index in range(512)))
        for pfn in tables.live()
    }


def agree(tables: GuestTables, root: int, leaves: Iterable[Translation]) -> int:
    """Hold both faces against leaves of a root; gives how many there were."""
    leaves = list(leaves)
    registers = PagingRegisters(WP_AND_NX, root << 12)
    pages = words_of(tables)
    snapshot, memory = Snapshot(pages), Pages(pages)
    gvas = np.array([leaf.gva for leaf in leaves], np.uint64)
    for kind in (LOAD, USER_STORE):
        walks = walk_many(snapshot, registers, gvas, kind, steps=True)
        for lane, leaf in enumerate(leaves):
            denied = fault_code(leaf, write=kind.write, user=kind.user, fetch=kind.fetch)
            code, gpa, steps = row(walks, lane)
            assert code == (THROUGH if denied is None else denied), leaf
            assert gpa == (leaf.gpa if denied is None else 0), leaf
            assert walks.level[lane] == leaf.level
            rights = int(walks.rights[lane])
            assert (bool(rights & W), bool(rights & U), bool(rights & NX)) == leaf.rights
            assert [(at, entry & ~(A | D)) for at, entry in steps] == [
                (at, entry & ~(A | D)) for at, entry in leaf.path
            ]
            expected = stepped(registers, memory, Access(leaf.gva, kind, ac=False))
            assert (code, gpa) == expected[:2]
    return len(leaves)


@cache
def recorded() -> GuestTables:
    return GuestTables(read_recording(SMALL).tables)


def test_every_user_page_of_a_real_guest() -> None:
    tables = recorded()
    pages = sum(
        agree(tables, root, takewhile(lambda leaf: leaf.gva < KERNEL_HALF, tables.leaves(root)))
        for root in sorted(tables.roots)
    )
    assert pages > 1000


def test_kernel_pages_of_a_real_guest() -> None:
    tables = recorded()
    leaves = tables.leaves(min(tables.roots))
    assert agree(tables, min(tables.roots), islice(leaves, 0, 6000, 4)) == 1500


@pytest.mark.slow
def test_every_page_of_a_real_guest() -> None:
    tables = recorded()
    assert sum(agree(tables, root, tables.leaves(root)) for root in sorted(tables.roots)) == 665_154


# --- shapes ---


def test_memory_that_nobody_described_reads_as_zeros() -> None:
    registers = PagingRegisters(Controls(), 0x7000_0000)
    walks = walk_many(Snapshot({}), registers, [0, 1 << 46], LOAD, steps=True)
    assert walks.code.tolist() == [0, 0]
    assert walks.level.tolist() == [4, 4]
    assert walks.step_gpa.tolist()[0] == [0x7000_0000, 0x7000_0000 + 8 * 128]


def test_without_paging_addresses_are_their_own() -> None:
    registers = PagingRegisters(Controls.of(PagingMode.NONE), 0)
    walks = walk_many(Snapshot({}), registers, [5, 1 << 32], LOAD)
    assert walks.gpa.tolist() == [5, 0]
    assert walks.code.tolist() == [THROUGH, GENERAL_PROTECTION]


def test_more_walks_than_fit_in_a_chunk() -> None:
    pages = {n: struct.pack("<Q", (n + 1) << 12 | P | W | U) + bytes(4088) for n in (1, 2, 3, 4)}
    gvas = np.arange(3 * CHUNK + 7, dtype=np.uint64) % np.uint64(8192)
    walks = walk_many(Snapshot(pages), PagingRegisters(Controls(), 1 << 12), gvas, LOAD)
    mapped = gvas < 4096
    assert np.array_equal(walks.code, np.where(mapped, THROUGH, 0))
    assert np.array_equal(walks.gpa, np.where(mapped, gvas + np.uint64(0x5000), np.uint64(0)))
