"""The page walker as silicon has it, in every paging mode: two faces of one table of rules.

``Walker`` walks memory that others write meanwhile: one op a read and one a locked update of A and
D. ``walk_many`` walks a snapshot for arrays of addresses; it lies in ``walker_bulk`` and is loaded
when asked for, so that the model runs without numpy. The rules are those of ``vmm.hw.paging``.

An entry that changed between its read and the update of its A and D bits sends the walk back to the
root, since what it has read may belong together no more.

    walker                                 a guest's store
    read gpte: X, A clear
                                           store gpte := Y
    locked: X -> X | A fails, gpte is Y
    start again from cr3

Source: Intel SDM vol. 3, 4.8 (locked updates of A and D), 4.4.1 (PDPTE registers).
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from vmm.bits import PFERR_PRESENT, PFERR_RSVD, P
from vmm.engine.world import ModelObject
from vmm.hw.access import AccessKind, GeneralProtection, GuestFault
from vmm.hw.events import Exchange
from vmm.hw.memory import merge, part_of
from vmm.hw.paging import (
    ALL_RIGHTS,
    Controls,
    PagingRegisters,
    add_rights,
    fault_code,
    format_of,
    is_canonical,
    is_leaf,
    refusal,
    reserved_bits,
    root_base,
    table_base,
    target,
    used,
)
from vmm.units import ENTRY_BYTES, Gfn, Gpa, Gva, gpa_to_gfn

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.hw.walker_bulk import Snapshot, Walks, kind_codes, walk_many

__all__ = ("Outcome", "Snapshot", "Walk", "WalkStep", "Walker", "Walks", "kind_codes", "walk_many")


class WordMemory(Protocol):
    """Physical memory as a walker sees it: little-endian words of 8 bytes."""

    def word(self, address: int) -> Cell[int]:
        """The word that holds the byte at ``address``."""


class WalkStep(NamedTuple):
    """One entry of a walk: ``entry`` as it was read (with the A and D that the walk set).

    ``access`` are the rights of the walk up to and with this entry. A PDPTE of PAE paging comes
    from a register; ``gpa`` is where MOV CR3 found it.
    """

    level: int
    table: Gfn
    gpa: Gpa
    entry: int
    access: int


class Walk(NamedTuple):
    """A walk that let its access through: the steps from root to leaf, and where it leads."""

    gva: Gva
    gpa: Gpa
    steps: tuple[WalkStep, ...]


Outcome: TypeAlias = Walk | GuestFault | GeneralProtection


class Walker(ModelObject):
    """Walks guest page tables in ``memory``.

    Holds: nothing. Ops: one read a level, one locked update for each entry whose A or D must be
    set. The registers are those of the start: to them a walk is one action.
    """

    def __init__(self, memory: WordMemory) -> None:
        self.memory = memory

    async def translate(self, registers: PagingRegisters, gva: Gva, kind: AccessKind) -> Outcome:
        """Translate one access, with all that it leaves in the entries. Faults are values."""
        if not is_canonical(gva, registers.controls):
            return GeneralProtection(gva)
        return await self.walk_tables(registers, gva, kind)

    async def walk_tables(
        self, registers: PagingRegisters, gva: Gva, kind: AccessKind
    ) -> Walk | GuestFault:
        """The walk of a canonical address, again and again until no entry changed under it."""
        while True:
            found = await self._descend(registers, gva, kind)
            if found is not None:
                return found

    async def _descend(
        self, registers: PagingRegisters, gva: Gva, kind: AccessKind
    ) -> Walk | GuestFault | None:
        """One try; None if an entry changed under the update of its A and D bits."""
        controls = registers.controls
        form = format_of(controls)
        base, access = root_base(registers.cr3, controls), ALL_RIGHTS
        steps: tuple[WalkStep, ...] = ()
        for level, index in form.path(gva):
            gpa = Gpa(base + index * form.entry_bytes)
            latched = form.pdptes and not steps
            if latched:
                entry = registers.pdptes[index]
            else:
                entry = await self.read_entry(gpa, form.entry_bytes)
            access = add_rights(access, entry, level, controls)
            refused = self.refused(entry, access, level, kind, controls)
            if refused is not None:
                return GuestFault(gva, refused)
            leaf = is_leaf(entry, level, controls)
            marked = entry if latched else used(entry, kind, leaf=leaf)
            if marked != entry and not await self.mark_used(gpa, entry, marked, form.entry_bytes):
                return None
            steps = (*steps, WalkStep(level, gpa_to_gfn(Gpa(base)), gpa, marked, access))
            if leaf:
                return Walk(gva, Gpa(target(entry, level, gva, controls)), steps)
            base = table_base(entry)
        return Walk(gva, Gpa(gva), steps)

    def refused(
        self, entry: int, access: int, level: int, kind: AccessKind, controls: Controls
    ) -> int | None:
        """Error code with which the walk ends at an entry, if it does.

        ``access`` are the rights up to and with it; they matter at the leaf only.
        """
        if not entry & P:
            return fault_code(kind, controls, why=0)
        leaf = is_leaf(entry, level, controls)
        if entry & reserved_bits(level, controls, leaf=leaf):
            return fault_code(kind, controls, PFERR_PRESENT | PFERR_RSVD)
        return refusal(access, entry, kind, controls) if leaf else None

    async def read_entry(self, gpa: Gpa, size: int) -> int:
        """Read an entry of ``size`` bytes: one op."""
        return part_of(await self.memory.word(gpa), gpa, size)

    async def mark_used(self, gpa: Gpa, entry: int, marked: int, size: int) -> bool:
        """Set A and D in an entry, in one locked op, unless it has changed since it was read."""
        word, exchange = self.memory.word(gpa), Exchange(gpa, entry, size)
        if size == ENTRY_BYTES:
            return await word.cas(entry, marked, event=exchange)
        event = partial(_if_swapped, exchange)
        return await word.update(_swap_in_word, gpa, entry, marked, event=event)


def _swap_in_word(word: int, gpa: int, old: int, new: int) -> tuple[int, bool]:
    """Compare and swap 4 bytes: what its neighbour does is nothing to an entry."""
    if part_of(word, gpa, 4) != old:
        return word, False
    return merge(word, new, gpa & 4, 4)[0], True


def _if_swapped(exchange: Exchange, swapped: bool) -> tuple[Exchange, ...]:
    return (exchange,) if swapped else ()


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("vmm.hw.walker_bulk"), name)
    raise AttributeError(name)
