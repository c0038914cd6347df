"""Bits of x86-64 paging entries (guest and shadow alike) and of the page-fault error code.

Source: Intel SDM vol. 3, 4.5 (4-level paging) and 4.7 (page-fault exceptions).
"""

from __future__ import annotations

P = 1 << 0
"""Present."""
W = 1 << 1
"""Writable (R/W)."""
U = 1 << 2
"""User (U/S)."""
A = 1 << 5
"""Accessed."""
D = 1 << 6
"""Dirty; leaves only."""
PS = 1 << 7
"""Page size: this entry at level 2 or 3 is a leaf."""
G = 1 << 8
"""Global; leaves only."""
RESERVED = 1 << 51
"""In an spte: above the addresses of the model's processors, so every walk ends there."""
MMIO = 1 << 9
"""Software's, in a shadow leaf that is not present: its frame has no memory."""
NX = 1 << 63
"""Execute disable."""

FRAME_SHIFT = 12
FRAME_MASK = ((1 << 52) - 1) & ~((1 << FRAME_SHIFT) - 1)
RIGHTS = W | U | NX
"""The bits of an entry that say what may be done through it."""

PFERR_PRESENT = 1 << 0
PFERR_WRITE = 1 << 1
PFERR_USER = 1 << 2
PFERR_RSVD = 1 << 3
"""A reserved bit was set in an entry of the walk; PRESENT is set too."""
PFERR_FETCH = 1 << 4
PFERR_PK = 1 << 5
"""The page's protection key forbids the access."""


def frame_of(entry: int) -> int:
    """Frame number that an entry points to."""
    return (entry & FRAME_MASK) >> FRAME_SHIFT


def make_entry(frame: int, flags: int) -> int:
    """An entry that points to ``frame``."""
    return frame << FRAME_SHIFT | flags


def combine(upper: int, lower: int) -> int:
    """Rights of a walk so far with those of the next entry: AND of W and U, OR of NX."""
    return (upper & lower & (W | U)) | ((upper | lower) & NX)


def describe_rights(entry: int) -> str:
    """Rights as letters: ``w`` writable, ``u`` user, ``x`` executable; ``-`` for none."""
    letters = ("w" if entry & W else "") + ("u" if entry & U else "") + ("" if entry & NX else "x")
    return letters or "-"


def format_gpte(entry: int) -> str:
    """A guest entry for a reader."""
    if not entry & P:
        return "not present" if not entry else f"not present ({entry:#x})"
    large = " large" if entry & PS else ""
    return f"gfn {frame_of(entry):#x} {describe_rights(entry)}{large}"


def is_walkable(entry: int) -> bool:
    """Whether a processor's walk goes on by a shadow entry, or caches it: SDM vol. 3, 4.7, 4.10."""
    return bool(entry & P) and not entry & RESERVED


def format_spte(entry: int) -> str:
    """A shadow entry for a reader."""
    if not entry & P:
        return f"MMIO gfn {frame_of(entry):#x}" if entry & MMIO else "not present"
    if entry & RESERVED:
        return f"tracked pfn {frame_of(entry & ~RESERVED):#x} {describe_rights(entry)}"
    return f"pfn {frame_of(entry):#x} {describe_rights(entry)}"
