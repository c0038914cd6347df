"""Events of the hardware."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.hw.paging import PagingRegisters
from vmm.units import ENTRY_BYTES, Gva, Pfn


class WalkRead(Event, frozen=True):
    """The walker of a pCPU read an entry of the table in host frame ``table``."""

    pcpu: int
    table: Pfn
    gva: Gva
    level: int


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


class RegistersWritten(Event, frozen=True):
    """A guest's MOV CR3, or change of control bits, took effect; the values may be the same."""

    pcpu: int
    old: PagingRegisters
    new: PagingRegisters
    mov_cr3: bool


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
