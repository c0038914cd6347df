"""Events of the hardware."""

from __future__ import annotations

import enum

from vmm.engine.events import Event
from vmm.hw.paging import PagingRegisters
from vmm.units import ENTRY_BYTES, Gva, Pfn


class WalkRead(Event, frozen=True):
    """The walker of a pCPU read an entry of the table in host frame ``table``.

    ``ahead``: in a walk that no access asked for, beside those of accesses.
    """

    pcpu: int
    table: Pfn
    gva: Gva
    level: int
    ahead: bool = False


class Access(Event, frozen=True):
    """A guest access reached memory through a translation that the processor held."""

    pcpu: int
    gva: Gva
    pfn: Pfn
    write: bool
    cached: bool
    """Served by a TLB entry, not by a walk of this very access."""
    user: bool = False
    fetch: bool = False


class TlbFlush(Event, frozen=True):
    """A pCPU dropped TLB entries."""

    pcpu: int


class Invlpg(Event, frozen=True):
    """A guest's INVLPG of ``gva`` took effect on a pCPU."""

    pcpu: int
    gva: Gva


class InvpcidType(enum.Enum):
    """What an INVPCID invalidates. The values are those of its register operand."""

    ADDRESS = 0
    """A page, in one PCID; not global ones."""
    PCID = 1
    """One PCID; not global pages."""
    ALL = 2
    """Everything, global pages too."""
    ALL_NON_GLOBAL = 3


class Invpcid(Event, frozen=True):
    """A guest's INVPCID took effect."""

    pcpu: int
    what: InvpcidType
    pcid: int
    gva: Gva
    current: int
    """The PCID in use."""


class RegistersWritten(Event, frozen=True):
    """A guest's MOV CR3, or change of control bits, took effect; the values may be the same.

    ``pcids``: before and after; ``keeps``: bit 63 of the value for CR3 was set, so that nothing is
    invalidated; ``pcids_off``: CR4.PCIDE was cleared, which invalidates everything.
    """

    pcpu: int
    old: PagingRegisters
    new: PagingRegisters
    mov_cr3: bool
    pcids: tuple[int, int] = (0, 0)
    keeps: bool = False
    pcids_off: bool = False


class GiveBack(Event, frozen=True):
    """A host frame went back to the host: nobody may reach it any more."""

    pfn: Pfn


class Take(Event, frozen=True):
    """A host frame was handed out again."""

    pfn: Pfn


class Exchange(Event, frozen=True):
    """A locked read-modify-write of ``size`` bytes at ``gpa``: it replaces ``seen``."""

    gpa: int
    seen: int
    size: int = ENTRY_BYTES
