"""Events of the hardware."""

from __future__ import annotations

from dataclasses import dataclass

from vmm.engine.events import Event
from vmm.units import Gva, Pfn


@dataclass(frozen=True, slots=True)
class WalkRead(Event):
    """The walker of a pCPU read an entry of the table in host frame ``table``."""

    pcpu: int
    table: Pfn
    gva: Gva
    level: int


@dataclass(frozen=True, slots=True)
class Access(Event):
    """A guest access reached memory through a translation that the processor held."""

    pcpu: int
    gva: Gva
    pfn: Pfn
    write: bool
    cached: bool
    """Served by a TLB entry, not by a walk of this very access."""


@dataclass(frozen=True, slots=True)
class TlbFlush(Event):
    """A pCPU dropped TLB entries."""

    pcpu: int


@dataclass(frozen=True, slots=True)
class GiveBack(Event):
    """A host frame went back to the host: nobody may reach it any more."""

    pfn: Pfn


@dataclass(frozen=True, slots=True)
class Take(Event):
    """A host frame was handed out again."""

    pfn: Pfn
