"""Random page tables, controls and accesses: what the walkers are compared on.

A trial is one set of tables with controls for all accesses to it. The tables of each level have
pages of their own and are full of random entries, so that each access meets entries that it has
not seen; rights, marks, large pages and reserved bits are as frequent as makes about half of the
accesses go through.
"""

from __future__ import annotations

import struct
from random import Random
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tests.hw.emulated import ALIASES, GIGA, MAXPHYADDR, TABLE_PAGES, TABLES, WINDOW_KEY
from vmm.hw.access import AccessKind
from vmm.hw.paging import Controls, PagingMode

PAGES_A_LEVEL = 3
LEVELS = {
    PagingMode.BITS32: 2,
    PagingMode.PAE: 3,
    PagingMode.LEVEL4: 4,
    PagingMode.LEVEL5: 5,
}
# How often a bit of an entry is set: P, W, U, PWT, PCD, A, D, (7: see below), G, ignored.
_OFTEN = {0: 0.96, 1: 0.85, 2: 0.85, 3: 0.3, 4: 0.3, 5: 0.5, 6: 0.5, 8: 0.3, 9: 0.3, 10: 0.3}
_LARGE, _NX, _STRAY, _HIGH = 0.2, 0.12, 0.03, 0.02
_SHIFTS = {PagingMode.BITS32: (12, 22), PagingMode.PAE: (12, 21, 30)}
_LONG_SHIFTS = (12, 21, 30, 39, 48)

Words = npt.NDArray[np.uint64]


class Access(NamedTuple):
    """One access of a trial."""

    gva: int
    kind: AccessKind
    ac: bool


class Trial(NamedTuple):
    """Tables as the bytes from ``TABLES`` on, and what to do with them."""

    controls: Controls
    cr3: int
    pdptes: tuple[int, ...]
    tables: bytes
    accesses: tuple[Access, ...]


def page_of(level: int, number: int = 0) -> int:
    """Where a table of a level lies; the root is page 0 of its level."""
    return TABLES + (PAGES_A_LEVEL * (level - 1) + number) * 4096


assert PAGES_A_LEVEL * 5 <= TABLE_PAGES


def controls_of(mode: PagingMode, random: Random) -> Controls:
    """Random controls; PKRU lets the window's own key through."""
    flags = ("wp", "pse", "nxe", "smep", "smap", "pke")
    likely = {"wp": 0.6, "pse": 0.7, "nxe": 0.7, "smep": 0.5, "smap": 0.5, "pke": 0.6}
    on = {flag: random.random() < likely[flag] for flag in flags}
    if mode not in {PagingMode.LEVEL4, PagingMode.LEVEL5}:
        on["pke"] = False  # needs IA32_EFER.LMA
    pkru = random.getrandbits(32) & random.getrandbits(32) & ~(3 << 2 * WINDOW_KEY)
    return Controls.of(mode, pkru=pkru, maxphyaddr=MAXPHYADDR, **on)


def trial_of(mode: PagingMode, seed: int, count: int, *, fixed: int) -> Trial:
    """The trial of a seed. ``fixed``: the last entry of its root."""
    random = Random(f"{mode.value} {seed}")
    make = np.random.default_rng(random.getrandbits(64))
    controls = controls_of(mode, random)
    tables = bytearray(TABLE_PAGES * 4096)
    for level in range(1, LEVELS[mode] + 1):
        for number in range(PAGES_A_LEVEL):
            entries = _entries(mode, level, make)
            at = page_of(level, number) - TABLES
            kind = np.uint32 if mode is PagingMode.BITS32 else np.uint64
            tables[at : at + 4096] = entries.astype(kind).tobytes()
    cr3 = page_of(LEVELS[mode])
    pdptes: tuple[int, ...] = ()
    if mode is PagingMode.BITS32:
        struct.pack_into("<I", tables, cr3 - TABLES + 0xFFC, fixed)
    elif mode is PagingMode.PAE:
        cr3 += 32 * random.randrange(128)
        registers = [_pdpte(random) for _ in range(3)] + [fixed]
        struct.pack_into("<4Q", tables, cr3 - TABLES, *registers)
        pdptes = tuple(registers)
    else:
        struct.pack_into("<Q", tables, cr3 - TABLES + 0xFF8, fixed)
    accesses = tuple(_access(mode, random) for _ in range(count))
    return Trial(controls, cr3 | random.choice((0, 8, 16, 24)), pdptes, bytes(tables), accesses)


def _pdpte(random: Random) -> int:
    """A PDPTE as MOV CR3 lets it pass: no reserved bits, or not present."""
    free = random.getrandbits(64) & 0xE18
    return page_of(2, random.randrange(PAGES_A_LEVEL)) | free | (random.random() < 0.9)


def _chance(make: np.random.Generator, count: int, chance: float) -> Words:
    """1 as often as ``chance`` says, else 0."""
    return (make.random(count) < chance).astype(np.uint64)


def _one_of(make: np.random.Generator, count: int, values: list[int]) -> Words:
    chosen: Words = make.choice(np.array(values, dtype=np.uint64), count)
    return chosen


def _entries(mode: PagingMode, level: int, make: np.random.Generator) -> Words:
    """A page full of entries of a level."""
    narrow = mode is PagingMode.BITS32
    count = 1024 if narrow else 512
    flags = np.zeros(count, dtype=np.uint64)
    for bit, chance in _OFTEN.items():
        flags |= _chance(make, count, chance) << np.uint64(bit)
    if level == 1:
        frames = _data_frames(make, count, narrow=narrow)
        flags |= _chance(make, count, 0.3) << np.uint64(7)  # PAT
    else:
        below = [page_of(level - 1, number) for number in range(PAGES_A_LEVEL)]
        frames = _one_of(make, count, below)
        if level == 2 or (level == 3 and mode is not PagingMode.PAE):
            large = _chance(make, count, _LARGE)
            frames = np.where(large != 0, _large_frames(make, count, mode, level), frames)
            flags |= large << np.uint64(7)
    entries = flags | frames
    # A pointer to a 4-byte table that turns into a 4M page might lead into the tables themselves.
    low = [bit for bit in range(12) if not (narrow and bit == 7)]
    strays = [1 << bit for bit in (*low, *([] if narrow else range(MAXPHYADDR, 64)))]
    entries ^= _one_of(make, count, strays) * _chance(make, count, _STRAY)
    if not narrow:
        entries |= _chance(make, count, _NX) << np.uint64(63)
        # Bits 62:52 are the key and ignored ones, but reserved in PAE paging.
        high = make.integers(0, 1 << 11, count, dtype=np.uint64) << np.uint64(52)
        often = _HIGH if mode is PagingMode.PAE else 0.9
        entries |= high * _chance(make, count, often)
    return entries


def _data_frames(make: np.random.Generator, count: int, *, narrow: bool) -> Words:
    """4K frames above the first 2M of a copy of the buffer."""
    copies = [alias * GIGA for alias in ALIASES if not narrow or alias < 4]
    frames = make.integers(512, GIGA >> 12, count, dtype=np.uint64) << np.uint64(12)
    return frames | _one_of(make, count, copies)


def _large_frames(make: np.random.Generator, count: int, mode: PagingMode, level: int) -> Words:
    """Large frames whose first 2M are not those of the buffer; few with reserved bits."""
    pat = _chance(make, count, 0.3) << np.uint64(12)
    wrong = _chance(make, count, 0.1)
    if mode is PagingMode.BITS32:
        frames = make.integers(1, 256, count, dtype=np.uint64) << np.uint64(22)
        low = [alias << 30 for alias in ALIASES if alias < 4]
        frames |= _one_of(make, count, low)
        # PSE-36: bits 20:13 are bits 39:32 of the address.
        top = [(alias & 3) << 30 | (alias >> 2) << 13 for alias in ALIASES if alias >= 4]
        extended = frames & np.uint64(0x3FC0_0000) | _one_of(make, count, top)
        frames = np.where(_chance(make, count, 0.3) != 0, extended, frames)
        frames |= pat | wrong << np.uint64(21)
        return frames
    copies = [alias * GIGA for alias in ALIASES]
    frames = _one_of(make, count, copies)
    if level == 2:
        frames |= make.integers(1, 512, count, dtype=np.uint64) << np.uint64(21)
    reserved = [1 << bit for bit in range(13, 12 + 9 * (level - 1))]
    frames |= pat | wrong * _one_of(make, count, reserved)
    return frames


def _access(mode: PagingMode, random: Random) -> Access:
    shifts = _SHIFTS.get(mode, _LONG_SHIFTS[: LEVELS[mode]])
    gva = random.randrange(512) << 3
    for shift in shifts[:-1]:
        entries = 1024 if mode is PagingMode.BITS32 else 512
        # Index 0 of a page directory would lead 1G pages to the first 2M of the buffer.
        gva |= random.randrange(shift == 21, entries) << shift
    top = {PagingMode.BITS32: 1023, PagingMode.PAE: 3}.get(mode, 511)
    gva |= random.randrange(top) << shifts[-1]
    if mode in {PagingMode.LEVEL4, PagingMode.LEVEL5}:
        bits = shifts[-1] + 9
        negative = bool(gva >> bits - 1)
        if random.random() < 0.02:
            negative = not negative  # not canonical
        gva |= -negative << bits & (1 << 64) - 1
    write, user, fetch, implicit = random.choice(_KINDS)
    return Access(gva, AccessKind(write, user, fetch, implicit), ac=random.random() < 0.5)


_KINDS: list[Any] = [
    *[(write, user, False, False) for write in (False, True) for user in (False, True)] * 2,
    (False, False, True, False),
    (False, True, True, False),
    (False, True, True, False),
    (False, False, False, True),
]
