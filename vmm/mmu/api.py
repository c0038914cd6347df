"""What the MMU asks of a vCPU, and what it answers. The ``vcpu`` package fulfils it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmm.engine.events import Event
from vmm.units import Gpa, Gva

if TYPE_CHECKING:
    from vmm.engine.cells import Cell

NO_ROOT = -1
"""Value of a vCPU's root cell while it has no shadow root."""


class LastPtWrite(NamedTuple):
    """The flood detector of a vCPU: the table it wrote last and how often in a row."""

    gfn: int
    count: int


class VcpuState(Protocol):
    """The cells of a vCPU that the MMU reads and writes."""

    number: int
    cr3: Cell[int]
    """Guest frame of the root table."""
    root: Cell[int]
    """Number of the shadow page that serves as root, or NO_ROOT."""
    last_pt_write: Cell[LastPtWrite]
    write_protect: bool
    """Guest CR0.WP."""


class Flusher(Protocol):
    """Who flushes TLBs for the MMU. ``me`` is the acting vCPU, None for a host thread."""

    async def flush_remote(self, me: VcpuState | None) -> None:
        """Make sure that no vCPU runs the guest on an old translation once this returns."""

    async def flush_local(self, me: VcpuState) -> None:
        """Make ``me`` flush before it enters the guest again."""


class FaultResult(enum.Enum):
    """What a page fault came to, apart from a fault of the guest's own (a ``GuestFault``)."""

    RESUME = "resume"
    """The shadow was fixed, or something changed: run the instruction again."""
    EMULATE = "emulate"
    """A write to a shadowed guest table: the store must be emulated."""


@dataclass(frozen=True, slots=True)
class EmulatedStore(Event):
    """An emulated store reached guest memory; the shadow still has to follow."""

    gpa: Gpa
    vcpu: int


@dataclass(frozen=True, slots=True)
class EmulatedStoreDone(Event):
    """The shadow has followed an emulated store."""

    gpa: Gpa
    vcpu: int


@dataclass(frozen=True, slots=True)
class FaultTaken(Event):
    """A vCPU's page fault was looked at; ``outcome`` names what came of it."""

    vcpu: int
    gva: Gva
    outcome: str


@dataclass(frozen=True, slots=True)
class ShadowPageMade(Event):
    """A shadow page entered the cache."""

    page: int


@dataclass(frozen=True, slots=True)
class ShadowPageZapped(Event):
    """A shadow page was emptied, and freed unless a vCPU uses it as its root."""

    page: int
    why: str
