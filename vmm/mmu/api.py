"""What the MMU asks of a vCPU, and what it answers. The ``vcpu`` package fulfils it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmm.engine.events import Event
from vmm.units import Gfn, Gpa

if TYPE_CHECKING:
    from vmm.engine.cells import Cell

NO_ROOT = -1
"""Value of a vCPU's root cell while it has no shadow root."""


class LastPtWrite(NamedTuple):
    """The flood detector of a vCPU: the table it wrote last and how often in a row."""

    gfn: int
    writes: int


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
    NO_MEMORY = "no memory"
    """Nothing was done (-ENOMEM); only with the feature memory-caches."""


class EmulatedStore(Event, frozen=True):
    """An emulated store reached the word at ``gpa``; the shadow still has to follow."""

    gpa: Gpa
    vcpu: int


class EmulatedStoreDone(Event, frozen=True):
    """The shadow has followed an emulated store to the word at ``gpa``."""

    gpa: Gpa
    vcpu: int


class ShadowPageMade(Event, frozen=True):
    """A shadow page entered the cache, for the frame ``gfn`` (of a table unless ``direct``)."""

    page: int
    gfn: Gfn
    direct: bool


class ShadowPageFreed(Event, frozen=True):
    """A shadow page of ``gfn`` left the cache."""

    page: int
    gfn: Gfn


class PoolExhausted(Event, frozen=True):
    """A shadow page for ``gfn`` was needed, but none is free."""

    gfn: Gfn


class MmuDestroyed(Event, frozen=True):
    """The VM's MMU is torn down: nothing of it may be left."""


class ShadowPageInvalid(Event, frozen=True):
    """A shadow page of ``gfn`` was zapped while it is in use: it is freed later."""

    page: int
    gfn: Gfn
