"""What the MMU asks of a vCPU, and what it answers. The ``vcpu`` package fulfils it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmm.engine.events import Event, Goal
from vmm.hw.control import PDPTE_SHIFT
from vmm.units import Gfn, Gpa, Gva, Pfn

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.events import EventSpec
    from vmm.hw.paging import PagingRegisters

NO_PAGE = -1
"""In a pae_root: the PDPTE of this quarter of the address space is not present."""


class Root(NamedTuple):
    """Where the hardware's walks of a vCPU start: shadow pages of ``level``, by number.

    One page in 4-level and 5-level modes. Otherwise the shadow is walked in PAE format, and these
    are the four entries of the vCPU's own pae_root: level 2, a quarter of 4G each. The pae_root is
    no shadow page: it is never cached. Source: KVM 17ac10ad2b, aef3d3fe13 (2007).
    """

    level: int
    pages: tuple[int, ...]

    @property
    def pcid(self) -> int:
        """The PCID that the processor tags translations with."""
        return 0

    def page(self, gva: Gva) -> int:
        """The page to start in, or NO_PAGE."""
        return self.pages[gva >> PDPTE_SHIFT & 3 if len(self.pages) > 1 else 0]


NO_ROOT = Root(0, ())
"""A vCPU's root while it has none."""


class LastPtWrite(NamedTuple):
    """The flood detector of a vCPU: the table it wrote last and how often in a row."""

    gfn: int
    writes: int


class VcpuState(Protocol):
    """The cells of a vCPU that the MMU reads and writes."""

    number: int
    registers: Cell[PagingRegisters]
    """The guest's control registers, as far as translation depends on them."""
    root: Cell[Root]
    """What the vCPU runs on, or NO_ROOT."""
    last_pt_write: Cell[LastPtWrite]


class Flusher(Protocol):
    """Who flushes TLBs for the MMU. ``me`` is the acting vCPU, None for a host thread."""

    async def flush_remote(self, me: VcpuState | None) -> None:
        """Make sure that no vCPU runs the guest on an old translation once this returns."""

    async def flush_local(self, me: VcpuState, *, event: EventSpec = None) -> None:
        """Make ``me`` flush before it enters the guest again."""


class FaultResult(enum.Enum):
    """What a page fault came to, apart from a fault of the guest's own (a ``GuestFault``)."""

    RESUME = "resume"
    """The shadow was fixed, or something changed: run the instruction again."""
    RETRY = "retry"
    """The memory slot is on its way out: nothing was done; only with the feature memslots."""
    EMULATE = "emulate"
    """A write to a shadowed guest table: the store must be emulated. Or there is no memory."""
    NO_MEMORY = "no memory"
    """Nothing was done (-ENOMEM); only with the feature memory-caches."""


class GuestPageFault(Event, frozen=True):
    """A page fault of the guest's own, to be delivered on ``vcpu`` when it enters."""

    vcpu: int
    gva: Gva


class FaultRetried(Goal, frozen=True):
    """What a fault had found out no longer holds: the guest runs into it again."""


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


class ShadowPageUnsync(Event, frozen=True):
    """The table in ``gfn`` may be written natively from here on, as far as this page goes."""

    page: int
    gfn: Gfn


class ShadowPageSynced(Event, frozen=True):
    """A shadow page of ``gfn`` is being brought up to date: its table is protected again."""

    page: int
    gfn: Gfn


class ShadowPageInvalid(Event, frozen=True):
    """A shadow page of ``gfn`` was zapped while it is in use: it is freed later."""

    page: int
    gfn: Gfn


class LocklessRead(Event, frozen=True):
    """KVM read an entry of the shadow page in host frame ``table`` without mmu_lock."""

    vcpu: int
    table: Pfn
    gva: Gva
    level: int
