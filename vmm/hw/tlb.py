"""The TLB of a pCPU: one cell that holds all its entries.

Adversarial without extra tasks: an entry stays until something must drop it, and each access may
choose a fresh walk instead, which is eviction for free. Only present translations are ever cached.

Entries are tagged by VPID. An untagged TLB, flushed at every entry, is a parameter of the machine,
because it hides bugs.

Source: Intel SDM vol. 3, 4.10.2 (what is cached), 4.10.4 (what invalidates), 28.3 (VPID).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from vmm.bits import describe_rights


class TlbEntry(NamedTuple):
    """A cached 4K translation: ``page`` is gva >> 12, ``rights`` the W, U, NX bits of the walk."""

    vpid: int
    page: int
    pfn: int
    rights: int


Tlb = tuple[TlbEntry, ...]
"""Sorted by (vpid, page): equal contents are equal values."""


def _position(tlb: Tlb, vpid: int, page: int) -> int:
    return bisect_left(tlb, (vpid, page))


def lookup(tlb: Tlb, vpid: int, page: int) -> TlbEntry | None:
    """The entry of a page, if it is cached."""
    at = _position(tlb, vpid, page)
    if at < len(tlb) and tlb[at][:2] == (vpid, page):
        return tlb[at]
    return None


def fill(tlb: Tlb, entry: TlbEntry) -> Tlb:
    """Cache an entry in place of what was cached for its page."""
    at = _position(tlb, entry.vpid, entry.page)
    replaced = at < len(tlb) and tlb[at][:2] == entry[:2]
    return (*tlb[:at], entry, *tlb[at + replaced :])


def drop_page(tlb: Tlb, vpid: int, page: int) -> Tlb:
    """INVLPG."""
    at = _position(tlb, vpid, page)
    if lookup(tlb, vpid, page) is None:
        return tlb
    return (*tlb[:at], *tlb[at + 1 :])


def drop_vpid(tlb: Tlb, vpid: int) -> Tlb:
    """All entries of one tag."""
    return tuple(entry for entry in tlb if entry.vpid != vpid)


def format_tlb(tlb: Tlb) -> str:
    """The entries for a reader."""
    return (
        ", ".join(f"{e.page:#x} -> pfn {e.pfn:#x} {describe_rights(e.rights)}" for e in tlb)
        or "empty"
    )
