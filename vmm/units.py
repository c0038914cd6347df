"""Addresses and frames as distinct types; all page arithmetic lives here.

A ``NewType`` decays to ``int`` under arithmetic, so only these functions may shift an address.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NewType

Gva = NewType("Gva", int)
"""Guest virtual address, bytes, canonical form as a 64-bit unsigned number."""
Gpa = NewType("Gpa", int)
"""Guest physical address, bytes."""
Hpa = NewType("Hpa", int)
"""Host physical address, bytes."""
Gfn = NewType("Gfn", int)
"""Guest frame number: gpa >> 12."""
Pfn = NewType("Pfn", int)
"""Host frame number: hpa >> 12."""

PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT
ENTRY_BYTES = 8
ENTRIES_PER_TABLE = 512
LEVEL_BITS = 9


def gfn_to_gpa(gfn: Gfn) -> Gpa:
    """First byte of a guest frame."""
    return Gpa(gfn << PAGE_SHIFT)


def gpa_to_gfn(gpa: Gpa) -> Gfn:
    """Frame that holds a guest physical byte."""
    return Gfn(gpa >> PAGE_SHIFT)


def pfn_to_hpa(pfn: Pfn) -> Hpa:
    """First byte of a host frame."""
    return Hpa(pfn << PAGE_SHIFT)


def page_number(gva: Gva) -> int:
    """Number of the 4K page that holds a guest virtual byte."""
    return gva >> PAGE_SHIFT


def page_offset(address: int) -> int:
    """Offset of a byte in its 4K page."""
    return address & (PAGE_BYTES - 1)


def table_index(gva: Gva, level: int) -> int:
    """Index of the entry for ``gva`` in a table of that level (1 = the last, 4 = PML4)."""
    return gva >> (PAGE_SHIFT + LEVEL_BITS * (level - 1)) & (ENTRIES_PER_TABLE - 1)


def entry_gpa(table: Gfn, index: int) -> Gpa:
    """Where entry ``index`` of a guest table lies."""
    return Gpa((table << PAGE_SHIFT) + index * ENTRY_BYTES)


def entry_index(gpa: Gpa) -> int:
    """Which entry of its table a guest physical byte belongs to."""
    return page_offset(gpa) // ENTRY_BYTES


def frames_per_entry(level: int) -> int:
    """4K frames that one entry of a table of that level covers."""
    return 1 << LEVEL_BITS * (level - 1)


def word_of(gpa: int) -> int:
    """The aligned 8-byte word that holds a byte."""
    return gpa & ~(ENTRY_BYTES - 1)


Numbers = tuple[int, ...]
"""Of frames or entries, ascending. Long runs have thousands."""


def has_number(numbers: Numbers, number: int) -> bool:
    """Whether a number is among them."""
    at = bisect_left(numbers, number)
    return at < len(numbers) and numbers[at] == number


def with_number(numbers: Numbers, number: int) -> Numbers:
    """The same, with a number that may be among them."""
    at = bisect_left(numbers, number)
    if at < len(numbers) and numbers[at] == number:
        return numbers
    return (*numbers[:at], number, *numbers[at:])


def without_number(numbers: Numbers, number: int) -> Numbers:
    """The same, without a number that need not be among them."""
    at = bisect_left(numbers, number)
    return (*numbers[:at], *numbers[at + 1 :]) if has_number(numbers, number) else numbers
