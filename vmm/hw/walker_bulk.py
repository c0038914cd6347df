"""``walk_many``: the page walk for arrays of addresses over a snapshot of memory, in every mode.

All rules are those of ``vmm.hw.paging``, asked once for each kind of access, combination of rights,
key and level, and then looked up. Walks are independent of each other: nobody sees the A and D bits
of another, and the snapshot stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from vmm.bits import NX, PFERR_PRESENT, PFERR_RSVD, PS, A, D, P, U, W
from vmm.hw.access import AccessKind
from vmm.hw.paging import (
    KEY_SHIFT,
    KEYS,
    Controls,
    PagingMode,
    PagingRegisters,
    fault_code,
    format_of,
    is_leaf,
    refusal,
    reserved_bits,
    root_base,
    table_base,
    target,
)
from vmm.units import ENTRY_BYTES, PAGE_BYTES, PAGE_SHIFT

Words: TypeAlias = npt.NDArray[np.uint64]
Codes: TypeAlias = npt.NDArray[np.int16]

THROUGH = -1
"""In place of an error code: the access went through."""
GENERAL_PROTECTION = -2
"""In place of an error code: #GP, the address is not canonical."""
CHUNK = 1 << 14
"""Walks done at once: enough to make numpy pay, few enough to stay in the cache."""

_FRAME = np.uint64(table_base((1 << 64) - 1))
_KINDS = tuple(AccessKind(*flags[::-1]) for flags in product((False, True), repeat=4))
_MAX_LEVELS = 5


class Snapshot:
    """Guest memory at one moment: the pages that matter, all else reading as zeros.

    ``pages``: 4096 bytes each, by gfn.
    """

    def __init__(self, pages: Mapping[int, bytes | bytearray]) -> None:
        frames = np.fromiter(pages, np.int64, len(pages))
        # The row after the last is the page of zeros, also for every frame beyond the last.
        self.rows: npt.NDArray[np.int64] = np.full(int(frames.max(initial=-1)) + 2, len(pages))
        self.rows[frames] = np.arange(len(pages))
        content = b"".join([*map(bytes, pages.values()), bytes(PAGE_BYTES)])
        self.words: Words = np.frombuffer(content, "<u8").astype(np.uint64)
        self.halves: npt.NDArray[np.uint32] = np.frombuffer(content, "<u4").astype(np.uint32)

    def rows_of(self, frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where pages lie: gfns (n,) to row numbers (n,)."""
        return self.rows.take(frames, mode="clip")


class Walks(NamedTuple):
    """What became of n walks, in the order of their addresses.

    ``code``: int16 (n,), the #PF error code, or THROUGH, or GENERAL_PROTECTION. ``gpa``: uint64
    (n,), bytes, 0 unless the access went through. ``level``, ``entry``, ``rights``: int8, uint64,
    uint64 (n,), of the last entry that was read; rights are W, U and NX of the walk so far.
    ``step_gpa``, ``step_entry``: uint64 (levels, n), root first: where each entry lies and what
    the walk leaves in it (its A and D set), 0 where nothing was read; (0, n) unless asked for.
    """

    code: Codes
    gpa: Words
    level: npt.NDArray[np.int8]
    entry: Words
    rights: Words
    step_gpa: Words
    step_entry: Words


def kind_codes(kinds: Iterable[AccessKind]) -> npt.NDArray[np.uint8]:
    """Kinds of access as ``walk_many`` takes them: uint8, bits write, user, fetch, implicit."""
    codes = {kind: code for code, kind in enumerate(_KINDS)}
    return np.fromiter((codes[kind] for kind in kinds), np.uint8)


def walk_many(
    snapshot: Snapshot,
    registers: PagingRegisters,
    gvas: npt.ArrayLike,
    kinds: AccessKind | npt.NDArray[np.uint8],
    *,
    steps: bool = False,
) -> Walks:
    """Walk for each of n addresses under one set of registers.

    ``gvas``: uint64 (n,), unsigned canonical bytes. ``kinds``: one for all, or uint8 (n,) as
    ``kind_codes`` makes them. ``steps``: also give every entry on the way.
    """
    addresses = np.ascontiguousarray(gvas, dtype=np.uint64)
    count = len(addresses)
    if isinstance(kinds, AccessKind):
        kinds = np.full(count, kind_codes([kinds])[0])
    depth = len(format_of(registers.controls).levels) if steps else 0
    walks = Walks(
        np.empty(count, np.int16),
        np.zeros(count, np.uint64),
        np.zeros(count, np.int8),
        np.zeros(count, np.uint64),
        np.zeros(count, np.uint64),
        np.zeros((depth, count), np.uint64),
        np.zeros((depth, count), np.uint64),
    )
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        columns: Any = [column[..., part] for column in walks]
        chunk = Walks(*columns)
        _descend(snapshot, registers, addresses[part], chunk)
        _judge(registers.controls, addresses[part], kinds[part], chunk)
    return walks


def _descend(snapshot: Snapshot, registers: PagingRegisters, gvas: Words, walks: Walks) -> None:
    """Follow entries as far as they lead to tables; leaves the last one of each walk."""
    controls = registers.controls
    form = format_of(controls)
    lanes: Any = slice(None)
    bases = np.full(len(gvas), root_base(registers.cr3, controls), np.uint64)
    rights = np.full(len(gvas), (1 << 64) - 1, np.uint64)
    for depth, (level, _, shift, bits) in enumerate(form.levels):
        index = gvas >> np.uint64(shift) & np.uint64((1 << bits) - 1)
        if form.pdptes and not depth:
            entries = np.array(registers.pdptes, np.uint64)[index.view(np.int64)]
        else:
            entries = _read(snapshot, bases, index, form.entry_bytes)
            rights = rights & (entries ^ np.uint64(NX))  # so that every bit is ANDed
        if len(walks.step_gpa):
            walks.step_gpa[depth, lanes] = bases + index * np.uint64(form.entry_bytes)
            walks.step_entry[depth, lanes] = entries
        walks.entry[lanes], walks.rights[lanes], walks.level[lanes] = entries, rights, level
        goes_on = (entries & np.uint64(_leads_on(level, controls))) == P
        if level == 1 or not goes_on.any():
            return
        bases = entries & _FRAME
        if not goes_on.all():
            kept = np.flatnonzero(goes_on)
            lanes = kept if isinstance(lanes, slice) else lanes[kept]
            gvas, bases, rights = gvas[kept], bases[kept], rights[kept]


def _read(snapshot: Snapshot, bases: Words, index: Words, size: int) -> Words:
    """Entries of ``size`` bytes. Tables fill their pages."""
    rows = snapshot.rows_of((bases >> np.uint64(PAGE_SHIFT)).view(np.int64))
    places = rows * (PAGE_BYTES // size) + index.view(np.int64)
    entries: Words = (
        snapshot.words[places] if size == ENTRY_BYTES else snapshot.halves[places].astype(np.uint64)
    )
    return entries


def _leads_on(level: int, controls: Controls) -> int:
    """The bits of an entry that must be P alone if the walk is to go on below it."""
    if controls.mode is PagingMode.PAE and level == 3:
        return P  # reserved bits were looked at by MOV CR3
    large = PS if is_leaf(PS, level, controls) else 0
    return P | large | reserved_bits(level, controls, leaf=False)


class _Rules(NamedTuple):
    """The rules under some controls, as tables.

    By kind: code of an entry that is not present, or has a reserved bit. By kind, rights (W, U,
    not NX) and key: code of a leaf. By level: reserved bits of a leaf and of others, PS if it
    makes a leaf, and the bits of an address below a leaf.
    """

    absent: Codes
    reserved: Codes
    leaf: Codes
    leaf_reserved: Words
    table_reserved: Words
    large: Words
    offset: Words


@lru_cache(maxsize=64)
def _rules(controls: Controls) -> _Rules:
    levels = format_of(controls).levels
    columns = np.zeros((4, _MAX_LEVELS + 1), np.uint64)
    for level, _, shift, _ in levels:
        pae_root = controls.mode is PagingMode.PAE and level == 3
        columns[:, level] = (
            reserved_bits(level, controls, leaf=True),
            0 if pae_root else reserved_bits(level, controls, leaf=False),
            PS if is_leaf(PS, level, controls) else 0,
            (1 << shift) - 1,
        )
    leaf = [
        refusal(
            (W if w else 0) | (U if u else 0) | (0 if x else NX), key << KEY_SHIFT, kind, controls
        )
        for kind, x, u, w, key in product(_KINDS, *((False, True),) * 3, range(KEYS))
    ]
    return _Rules(
        np.array([fault_code(kind, controls, 0) for kind in _KINDS], np.int16),
        np.array(
            [fault_code(kind, controls, PFERR_PRESENT | PFERR_RSVD) for kind in _KINDS], np.int16
        ),
        np.array([THROUGH if code is None else code for code in leaf], np.int16),
        *columns,
    )


def _judge(controls: Controls, gvas: Words, kinds: npt.NDArray[np.uint8], walks: Walks) -> None:
    """Work out from the last entry of each walk what became of it."""
    if not format_of(controls).levels:
        walks.code[:], walks.gpa[:], walks.rights[:] = THROUGH, gvas, W | U
        _refuse_far(controls, gvas, walks)
        return
    rules = _rules(controls)
    entry, level, rights = walks.entry, walks.level, walks.rights
    leaf = (level == 1) | (entry & rules.large[level] != 0)
    allowed = rights >> np.uint64(1) & np.uint64(3) | rights >> np.uint64(61) & np.uint64(4)
    key = entry >> np.uint64(KEY_SHIFT) & np.uint64(KEYS - 1)
    place = (kinds.astype(np.int64) << 7) | (allowed << np.uint64(4) | key).view(np.int64)
    reserved = entry & np.where(leaf, rules.leaf_reserved[level], rules.table_reserved[level])
    code = np.where(reserved != 0, rules.reserved[kinds], rules.leaf[place])
    walks.code[:] = np.where(entry & np.uint64(P) != 0, code, rules.absent[kinds])
    offset = rules.offset[level]
    gpa = entry & _FRAME & ~offset | gvas & offset
    if controls.mode is PagingMode.BITS32:
        # PSE-36: ask the table for the part of an address above its low 32 bits.
        gpa[level == 2] |= _above_4g(entry[level == 2], controls)
    walks.gpa[:] = np.where(walks.code == THROUGH, gpa, np.uint64(0))
    rights[:] = rights & np.uint64(W | U) | ~rights & np.uint64(NX)
    if len(walks.step_entry):
        in_memory = slice(1 if format_of(controls).pdptes else 0, None)
        _mark(kinds, walks, walks.step_entry[in_memory])
    _refuse_far(controls, gvas, walks)


def _above_4g(entries: Words, controls: Controls) -> Words:
    """Bits 63:32 of the addresses of 4M pages."""
    extension = entries >> np.uint64(13) & np.uint64(0xFF)
    high = np.array([target(n << 13, 2, 0, controls) for n in range(256)], np.uint64)
    return high[extension.view(np.int64)]


def _mark(kinds: npt.NDArray[np.uint8], walks: Walks, step_entry: Words) -> None:
    """Set A in every entry that was used, and D in those that were written through."""
    for level, entries in zip(range(len(step_entry), 0, -1), step_entry, strict=True):
        last = (walks.level == level) & (walks.code == THROUGH)
        written = last & (kinds & 1 != 0)
        marks = ((walks.level < level) | last) * np.uint64(A) | written * np.uint64(D)
        np.bitwise_or(entries, marks, out=entries)


def _refuse_far(controls: Controls, gvas: Words, walks: Walks) -> None:
    """Addresses that are not canonical get #GP before anything is read."""
    bits = format_of(controls).linear_bits
    if bits == 32:
        far = gvas >> np.uint64(32) != 0
    else:
        spare = 64 - bits
        far = (gvas.view(np.int64) << spare >> spare).view(np.uint64) != gvas
    if far.any():
        for column in walks[1:]:
            column[..., far] = 0
        walks.code[far] = GENERAL_PROTECTION
