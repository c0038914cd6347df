"""The TLB of a pCPU, one cell that holds all its entries, and its paging-structure caches, another.

Adversarial without extra tasks: an entry stays until something must drop it, and each access may
choose a fresh walk instead, which is eviction for free. Only present translations are ever cached.

Entries are tagged by VPID, and by the guest's PCID. A TLB without VPIDs, flushed at every entry, is
a parameter of the machine, because it hides bugs.

Structure caches hold entries of upper levels, each with where it leads and the rights of the walk
so far. A walk may begin below any that is cached for its address, though memory says otherwise by
now. They are an option of the machine, since they add states.

    pCPU                                   KVM
    walks: caches PDE -> table T
                                           PDE := none; frees T
    walks on from T   <--   owed: a flush in between

Entries that no access of this processor needed are an option too (``vmm.hw.speculation``). Not
modeled: global entries (KVM makes no spte global), pages larger than 4K (nor does it map them).

Source: Intel SDM vol. 3, 4.10.1 (PCIDs), 4.10.2 and 4.10.3 (what is cached), 4.10.4 (what
invalidates), 28.3 (VPID).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple, TypeVar

from vmm.bits import describe_rights
from vmm.units import LEVEL_BITS, Gva, page_number

VPID_BITS = 16


def tag_of(vpid: int, pcid: int) -> int:
    """The tag of what is cached: the PCID, and below it the VPID."""
    return vpid | pcid << VPID_BITS


def vpid_of(tag: int) -> int:
    """The VPID of a tag."""
    return tag & (1 << VPID_BITS) - 1


class TlbEntry(NamedTuple):
    """A cached 4K translation: ``page`` is gva >> 12, ``rights`` the W, U, NX bits of the walk."""

    tag: int
    page: int
    pfn: int
    rights: int


Tlb = tuple[TlbEntry, ...]
"""Sorted by (tag, page): equal contents are equal values."""


class UpperEntry(NamedTuple):
    """A cached entry of an upper ``level``, for all gvas of ``prefix`` (gva >> the level's shift).

    It leads to the table in host frame ``table``, with the ``rights`` of the walk up to there.
    """

    tag: int
    level: int
    prefix: int
    table: int
    rights: int


StructureCaches = tuple[UpperEntry, ...]
"""Sorted by (tag, level, prefix), one entry each."""

Entry = TypeVar("Entry", TlbEntry, UpperEntry)


def _position(tlb: Tlb, tag: int, page: int) -> int:
    return bisect_left(tlb, (tag, page))


def lookup(tlb: Tlb, tag: int, page: int) -> TlbEntry | None:
    """The entry of a page, if it is cached."""
    at = _position(tlb, tag, page)
    if at < len(tlb) and tlb[at][:2] == (tag, page):
        return tlb[at]
    return None


def fill(tlb: Tlb, entry: TlbEntry) -> Tlb:
    """Cache an entry in place of what was cached for its page."""
    at = _position(tlb, entry.tag, entry.page)
    replaced = at < len(tlb) and tlb[at][:2] == entry[:2]
    return (*tlb[:at], entry, *tlb[at + replaced :])


def drop_page(tlb: Tlb, vpid: int, page: int) -> Tlb:
    """One page of a VPID, whatever the PCID."""
    left = tuple([e for e in tlb if e.page != page or vpid_of(e.tag) != vpid])
    return tlb if len(left) == len(tlb) else left


def drop_vpid(cached: tuple[Entry, ...], vpid: int) -> tuple[Entry, ...]:
    """All entries of a VPID, whatever their PCID."""
    return tuple([entry for entry in cached if vpid_of(entry.tag) != vpid])


def drop_tag(cached: tuple[Entry, ...], tag: int) -> tuple[Entry, ...]:
    """All entries of one PCID of a VPID."""
    return tuple([entry for entry in cached if entry.tag != tag])


def prefix_of(gva: Gva, level: int) -> int:
    """The bits of ``gva`` that lead to its entry of a level, and through it."""
    return page_number(gva) >> LEVEL_BITS * (level - 1)


def starts(caches: StructureCaches, tag: int, gva: Gva, top: int) -> StructureCaches:
    """What is cached for an address below a root of level ``top``."""
    own = [e for e in caches if e.tag == tag and e.level <= top]
    return tuple([e for e in own if e.prefix == prefix_of(gva, e.level)])


def fill_upper(caches: StructureCaches, entry: UpperEntry) -> StructureCaches:
    """Cache an upper entry in place of what was cached there."""
    others = [e for e in caches if e[:3] != entry[:3]]
    return tuple(sorted([*others, entry]))


def format_caches(caches: StructureCaches) -> str:
    """The upper entries for a reader."""
    return ", ".join(f"l{e.level} {e.prefix:#x} -> pfn {e.table:#x}" for e in caches) or "empty"


def format_tlb(tlb: Tlb) -> str:
    """The entries for a reader."""
    return (
        ", ".join(f"{e.page:#x} -> pfn {e.pfn:#x} {describe_rights(e.rights)}" for e in tlb)
        or "empty"
    )
