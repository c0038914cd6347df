"""Physical memory as 8-byte words, each a cell made at first touch.

Guest frames lie at the host frames of the same number unless host paging moved them, so one array
serves the guest, the host and the walker alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from vmm.bits import format_gpte
from vmm.engine.ops import atomically
from vmm.engine.world import ModelObject, World
from vmm.units import ENTRY_BYTES, PAGE_SHIFT, Gfn, Gpa, entry_index, gpa_to_gfn, word_of

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, CellArray
    from vmm.engine.events import EventSpec

CACHE_LINE_BYTES = 64


class Memory(ModelObject):
    """Words by address. Frames of ``tables`` print their words as paging entries of that size."""

    def __init__(self, world: World, content: Mapping[int, int], tables: Mapping[Gfn, int]) -> None:
        held: dict[int, dict[int, int]] = {size: {} for size in (0, ENTRY_BYTES // 2, ENTRY_BYTES)}
        for gpa, value in content.items():
            held[tables.get(gpa_to_gfn(Gpa(gpa)), 0)][gpa] = value
        self._entries = world.array(
            "gpte",
            0,
            label=_entry_label,
            content=held[ENTRY_BYTES],
            marked=True,
            format=format_gpte,
        )
        self._pairs = world.array(
            "gptes",
            0,
            label=_pair_label,
            content=held[ENTRY_BYTES // 2],
            marked=True,
            format=_format_pair,
        )
        self._words = world.array(
            "ram", 0, label=lambda gpa: f"ram {gpa:#x}", content=held[0], marked=True, format=hex
        )
        by_size = {ENTRY_BYTES: self._entries, ENTRY_BYTES // 2: self._pairs}
        self._tables: Mapping[int, CellArray[int, int]] = MappingProxyType(
            {gfn: by_size[size] for gfn, size in tables.items()}
        )

    @property
    def arrays(self) -> tuple[CellArray[int, int], ...]:
        """All words, by address: those of tables, and the others."""
        return self._entries, self._pairs, self._words

    def word(self, address: int) -> Cell[int]:
        """The word that holds the byte at ``address`` (gpa or hpa, bytes)."""
        aligned = word_of(address)
        return self._tables.get(aligned >> PAGE_SHIFT, self._words)[aligned]

    def store(
        self, address: int, value: int, size: int, *, event: EventSpec = None
    ) -> Awaitable[None]:
        """Store up to 8 bytes at any address, in one op. Ops: a write of one or of two words."""
        word, offset = self.word(address), address - word_of(address)
        if size == ENTRY_BYTES and not offset:
            return word.set(value, event=event)
        if offset + size <= ENTRY_BYTES:
            return word.update(merge, value, offset, size, event=event)
        words = (word, self.word(address + ENTRY_BYTES))
        return atomically(merge_in_two, words, value, offset, size, event=event)

    def fill(
        self, address: int, value: int, words: int, *, event: EventSpec = None
    ) -> Awaitable[None]:
        """Store a value to some words in a row, in one op."""
        cells = tuple([self.word(address + ENTRY_BYTES * n) for n in range(words)])
        return atomically(_fill, cells, value, event=event)


def _fill(*values: int) -> tuple[tuple[int, ...], None]:
    """``values``: the old ones, then the new one."""
    return (values[-1],) * (len(values) - 1), None


def _entry_label(gpa: int) -> str:
    return f"gpte {gpa >> PAGE_SHIFT << PAGE_SHIFT:#x}[{entry_index(Gpa(gpa))}]"


def _pair_label(gpa: int) -> str:
    first = 2 * entry_index(Gpa(gpa))
    return f"gptes {gpa >> PAGE_SHIFT << PAGE_SHIFT:#x}[{first}, {first + 1}]"


def _format_pair(word: int) -> str:
    return f"{format_gpte(word & 0xFFFF_FFFF)}; {format_gpte(word >> 32)}"


def merge(old: int, value: int, offset: int, size: int) -> tuple[int, None]:
    """Store ``size`` bytes at byte ``offset`` of a word; for ``Cell.update``."""
    mask = (1 << 8 * size) - 1 << 8 * offset
    return old & ~mask | value << 8 * offset & mask, None


def part_of(word: int, address: int, size: int) -> int:
    """The ``size`` bytes at ``address``, out of the word that holds them."""
    return word >> 8 * (address - word_of(address)) & (1 << 8 * size) - 1


def merge_in_two(
    low: int, high: int, value: int, offset: int, size: int
) -> tuple[tuple[int, int], None]:
    """Store ``size`` bytes from byte ``offset`` of the first of two words on."""
    word = 8 * ENTRY_BYTES
    both, _ = merge(low | high << word, value, offset, size)
    return (both & (1 << word) - 1, both >> word), None


class Part(NamedTuple):
    """``size`` bytes of an access, at ``address``; they begin ``at`` bytes into the access."""

    address: int
    at: int
    size: int

    def of(self, value: int) -> int:
        """What of a stored value belongs here."""
        return value >> 8 * self.at & (1 << 8 * self.size) - 1


def cut(address: int, size: int, unit: int) -> tuple[Part, ...]:
    """An access in parts that cross no multiple of ``unit`` bytes."""
    parts: tuple[Part, ...] = ()
    at = 0
    while at < size:
        here = address + at
        length = min(unit - here % unit, size - at)
        parts, at = (*parts, Part(here, at, length)), at + length
    return parts


def atomic_parts(address: int, size: int) -> tuple[Part, ...]:
    """The parts of a native access that each reach memory at once.

    Up to 8 bytes within a cache line are one part; all else is cut into words. Source: Intel SDM
    vol. 3, 9.1.1 (guaranteed atomic operations, from the P6 family on).
    """
    if size <= ENTRY_BYTES and address % CACHE_LINE_BYTES + size <= CACHE_LINE_BYTES:
        return (Part(address, 0, size),)
    return cut(address, size, ENTRY_BYTES)
