"""The rules of x86 paging in every mode: one table, which all walkers of the project follow.

Nothing here reads memory. A walker reads an entry and asks what it means: ``format_of`` gives the
levels of a mode, ``root_base`` and ``table_base`` where the next table lies, ``reserved_bits`` what
must be clear, ``is_leaf`` whether the walk ends, ``target`` where it leads, ``refusal`` whether the
access may go through, ``used`` what the entry says afterwards.

The order of a walk, of which the SDM leaves the parts marked (*) open:

    for each level, from the root
        read the entry                    P = 0: #PF, nothing at this level changes
        check its reserved bits           one is set: #PF with RSVD, nothing at this level changes
        if it leads to a table            set A (*: also where a later level refuses the access;
                                          rights are not looked at on the way down)
        if it maps the page               check the rights of the whole walk
                                          refused: #PF, neither A nor D is set (* A)
                                          granted: set A, and D if it is a write, in one update

A is the mark of an entry that was *used*, so processors may set it in upper entries although the
access faults (SDM 4.10.3.1 caches such entries, and only with A set); D of a refused write never
becomes set. Protection keys are part of the last check.

Levels are counted from the leaf, as KVM does: 1 = PTE, 2 = PDE, 3 = PDPTE, 4 = PML4E, 5 = PML5E.
Rights are the bits W, U and NX of an entry. Addresses are bytes.

Source: Intel SDM vol. 3, chapter 4: 4.1.1 (modes), 4.3 (32-bit), 4.4 (PAE), 4.5 (4- and 5-level),
4.6 (access rights, protection keys), 4.7 (error code), 4.8 (A and D). Not modeled: supervisor
protection keys, shadow stacks, SGX, AMD's other reserved bits (bit 8 of PML4E).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from vmm.bits import (
    NX,
    PFERR_FETCH,
    PFERR_PK,
    PFERR_PRESENT,
    PFERR_USER,
    PFERR_WRITE,
    PS,
    A,
    D,
    G,
    P,
    U,
    W,
    combine,
)
from vmm.hw.access import AccessKind

LINEAR_32 = (1 << 32) - 1
PSE36_BITS = 40
"""A 4M page of 32-bit paging lies below this, however large the processor's addresses are."""
KEY_SHIFT = 59
"""Bits 62:59 of a leaf are its protection key, in 4-level and 5-level paging."""
KEYS = 16


class PagingMode(enum.Enum):
    """How linear addresses are translated."""

    NONE = "no paging"
    BITS32 = "32-bit"
    PAE = "PAE"
    LEVEL4 = "4-level"
    LEVEL5 = "5-level"


class Controls(NamedTuple):
    """All control state that a walk depends on. The defaults are a 64-bit Linux before SMEP.

    ``ac`` is EFLAGS.AC, ``lme`` and ``nxe`` are of IA32_EFER, ``pkru`` has AD and WD of key n at
    bits 2n and 2n+1. ``maxphyaddr`` (32 to 52), ``pse36`` and ``gbpages`` are what CPUID reports.
    """

    pg: bool = True
    wp: bool = True
    pse: bool = False
    pae: bool = True
    pge: bool = True
    la57: bool = False
    smep: bool = False
    smap: bool = False
    pke: bool = False
    lme: bool = True
    nxe: bool = True
    ac: bool = False
    pkru: int = 0
    maxphyaddr: int = 52
    pse36: bool = True
    gbpages: bool = True

    @classmethod
    def of(cls, mode: PagingMode, **others: Any) -> Controls:
        """Controls of a mode; ``others`` replace defaults, by field name."""
        return cls()._replace(**{**_SWITCHES[mode], **others})

    @property
    def mode(self) -> PagingMode:
        """The paging mode. LME without PAE cannot be: turning on paging would give #GP."""
        if not self.pg:
            return PagingMode.NONE
        if not self.pae:
            return PagingMode.BITS32
        if not self.lme:
            return PagingMode.PAE
        return PagingMode.LEVEL5 if self.la57 else PagingMode.LEVEL4

    @property
    def long_mode(self) -> bool:
        """IA32_EFER.LMA."""
        return self.pg and self.lme


class PagingRegisters(NamedTuple):
    """What the registers of a processor say of paging.

    ``cr3``: bytes, with its low bits. ``pdptes``: the four entries that MOV CR3 read in PAE mode.
    """

    controls: Controls
    cr3: int
    pdptes: tuple[int, ...] = ()


HOST = Controls()
"""What the host's own paging, and the shadow tables of a guest, run under."""

_SWITCHES: Mapping[PagingMode, Mapping[str, bool]] = MappingProxyType(
    {
        PagingMode.NONE: {"pg": False, "pae": False, "lme": False, "la57": False},
        PagingMode.BITS32: {"pg": True, "pae": False, "lme": False, "la57": False},
        PagingMode.PAE: {"pg": True, "pae": True, "lme": False, "la57": False},
        PagingMode.LEVEL4: {"pg": True, "pae": True, "lme": True, "la57": False},
        PagingMode.LEVEL5: {"pg": True, "pae": True, "lme": True, "la57": True},
    }
)


# --- the levels of a mode ---


class Level(NamedTuple):
    """A level of a mode: its entries' name, and where the index into its tables lies in a gva."""

    number: int
    name: str
    shift: int
    bits: int


class Format(NamedTuple):
    """What the tables of a mode look like.

    ``levels``: root first. ``entry_bytes``: 4 or 8. ``linear_bits``: what a linear address has.
    ``root_mask``: the bits of CR3 that say where the root is. ``pdptes``: whether the entries of
    the root were loaded into registers by MOV CR3 and are not read by a walk.
    """

    levels: tuple[Level, ...]
    entry_bytes: int
    linear_bits: int
    root_mask: int
    pdptes: bool = False

    @property
    def root_level(self) -> int:
        """Number of the highest level; 0 without paging."""
        return len(self.levels)

    def level(self, number: int) -> Level:
        """The level of that number."""
        return self.levels[-number]

    def path(self, gva: int) -> tuple[tuple[int, int], ...]:
        """Number of each level from the root down, and the index of ``gva`` in its table."""
        return tuple(
            (number, gva >> shift & (1 << bits) - 1) for number, _, shift, bits in self.levels
        )


def _bits(high: int, low: int) -> int:
    """A mask of bits high:low; nothing if high < low."""
    return max(0, (1 << high + 1) - (1 << low))


_PAGE_FRAME = _bits(51, 12)
_LONG = tuple(
    Level(number, name, 3 + 9 * number, 9)
    for number, name in ((5, "PML5E"), (4, "PML4E"), (3, "PDPTE"), (2, "PDE"), (1, "PTE"))
)
FORMATS: Mapping[PagingMode, Format] = MappingProxyType(
    {
        PagingMode.NONE: Format((), 0, 32, 0),
        PagingMode.BITS32: Format(
            (Level(2, "PDE", 22, 10), Level(1, "PTE", 12, 10)), 4, 32, _bits(31, 12)
        ),
        PagingMode.PAE: Format(
            (Level(3, "PDPTE", 30, 2), *_LONG[-2:]), 8, 32, _bits(31, 5), pdptes=True
        ),
        PagingMode.LEVEL4: Format(_LONG[1:], 8, 48, _PAGE_FRAME),
        PagingMode.LEVEL5: Format(_LONG, 8, 57, _PAGE_FRAME),
    }
)


def format_of(controls: Controls) -> Format:
    """The format of the mode that the controls select."""
    return FORMATS[controls.mode]


def is_canonical(gva: int, controls: Controls) -> bool:
    """Whether an address can be translated at all; 64-bit mode answers #GP if not.

    ``gva`` is unsigned. The 32-bit modes know no address above 4G.
    """
    bits = format_of(controls).linear_bits
    if bits == 32:
        return gva <= LINEAR_32
    return gva >> bits - 1 in (0, (1 << 65 - bits) - 1)


# --- entries ---


def root_base(cr3: int, controls: Controls) -> int:
    """Where the root table lies."""
    return cr3 & format_of(controls).root_mask


def table_base(entry: int) -> int:
    """Where the table lies that an entry leads to."""
    return entry & _PAGE_FRAME


def is_leaf(entry: int, level: int, controls: Controls) -> bool:
    """Whether a present entry maps a page: every PTE, and PDEs and PDPTEs with PS set.

    Without CR4.PSE, 32-bit paging ignores PS.
    """
    if level == 1 or not entry & PS:
        return level == 1
    mode = controls.mode
    if level == 2:
        return mode is not PagingMode.BITS32 or controls.pse
    return level == 3 and mode is not PagingMode.PAE


def reserved_bits(level: int, controls: Controls, *, leaf: bool) -> int:
    """The bits that must be 0 in a present entry of a level; ``leaf``: it maps a page.

    For level 3 of PAE these are the bits that MOV CR3 checks (``pdptes_valid``).
    """
    mode, high = controls.mode, controls.maxphyaddr
    if mode is PagingMode.BITS32:
        # Bits 20:13 of a 4M page extend its address upward; what is beyond the processor's
        # addresses, and bit 21, is reserved (PSE-36).
        reach = min(high, PSE36_BITS) if controls.pse36 else 32
        return _bits(21, max(reach, 32) - 19) if leaf and level == 2 else 0
    if mode is PagingMode.PAE and level == 3:
        return _bits(2, 1) | _bits(8, 5) | _bits(63, high)
    return (
        (_bits(62, high) if mode is PagingMode.PAE else _bits(51, high))
        | (0 if controls.nxe else NX)
        | (PS if level > 3 or (level == 3 and not controls.gbpages) else 0)
        | (_bits(11 + 9 * (level - 1), 13) if leaf and level > 1 else 0)
    )


def pdptes_valid(pdptes: Sequence[int], controls: Controls) -> bool:
    """Whether MOV CR3 may load these PDPTEs in PAE mode; #GP if not."""
    reserved = reserved_bits(3, controls, leaf=False)
    return not any(entry & P and entry & reserved for entry in pdptes)


def page_bytes(level: int, controls: Controls) -> int:
    """Size of the page that a leaf of a level maps."""
    return 1 << format_of(controls).level(level).shift


def target(entry: int, level: int, gva: int, controls: Controls) -> int:
    """The physical address of ``gva`` under a leaf without reserved bits."""
    offset = page_bytes(level, controls) - 1
    base = entry & _PAGE_FRAME & ~offset
    if level == 2 and controls.mode is PagingMode.BITS32:
        base |= (entry & _bits(20, 13)) << 32 - 13
    return base | gva & offset


def protection_key(leaf: int, controls: Controls) -> int:
    """The protection key of a page; 0 where the mode has none."""
    return leaf >> KEY_SHIFT & KEYS - 1 if controls.long_mode else 0


def is_global(leaf: int, controls: Controls) -> bool:
    """Whether a TLB may keep the page across MOV CR3."""
    return bool(leaf & G) and controls.pge


def used(entry: int, kind: AccessKind, *, leaf: bool) -> int:
    """An entry as a walk that uses it leaves it: A set, and D by a write at the leaf."""
    return entry | A | (D if leaf and kind.write else 0)


# --- rights ---


ALL_RIGHTS = W | U
"""What a walk may do before it has read an entry."""


def add_rights(rights: int, entry: int, level: int, controls: Controls) -> int:
    """Rights of a walk with those of its next entry. The PDPTEs of PAE paging have none."""
    if level == 3 and controls.mode is PagingMode.PAE:
        return rights
    return combine(rights, entry)


def grants(rights: int, kind: AccessKind, controls: Controls) -> bool:
    """Whether R/W, U/S and NX of a whole walk let an access through; keys are not looked at."""
    if kind.fetch and rights & NX:
        return False
    if kind.user:
        return bool(rights & U) and (not kind.write or bool(rights & W))
    if kind.write and controls.wp and not rights & W:
        return False
    if not rights & U:
        return True
    if kind.fetch:
        return not controls.smep
    # AC lifts SMAP for what an instruction does, not for accesses that nobody asked for.
    return not controls.smap or (controls.ac and not kind.implicit)


def key_denies(rights: int, key: int, kind: AccessKind, controls: Controls) -> bool:
    """Whether the protection key forbids an access: data accesses to user pages only."""
    if not (controls.pke and controls.long_mode) or kind.fetch or not rights & U:
        return False
    access_disable, write_disable = controls.pkru >> 2 * key & 1, controls.pkru >> 2 * key & 2
    if access_disable:
        return True
    return bool(write_disable) and kind.write and (kind.user or controls.wp)


def refusal(rights: int, leaf: int, kind: AccessKind, controls: Controls) -> int | None:
    """Error code of the #PF that a finished walk gives, None if the access goes through.

    The PK flag is set whenever the key forbids the access, whatever else does.
    """
    denied = key_denies(rights, protection_key(leaf, controls), kind, controls)
    if grants(rights, kind, controls) and not denied:
        return None
    return fault_code(kind, controls, PFERR_PRESENT | (PFERR_PK if denied else 0))


def fault_code(kind: AccessKind, controls: Controls, why: int) -> int:
    """The #PF error code of an access; ``why``: its P, RSVD and PK flags.

    I is set for fetches only where the processor can tell them apart: NX or SMEP is on.
    """
    knows_fetch = controls.smep or (controls.pae and controls.nxe)
    return (
        why
        | (PFERR_WRITE if kind.write else 0)
        | (PFERR_USER if kind.user else 0)
        | (PFERR_FETCH if kind.fetch and knows_fetch else 0)
    )
