"""What one processor may hold of paging tables, for each of its PCIDs.

``vmm.hw.history`` says it of one PCID: what tables have lost since it was invalidated. Here are the
instructions that invalidate, and what becomes of a PCID that is not in use: it is *parked*, left as
it is until MOV CR3 comes back to it, or an INVPCID names it. Its global translations are of use
under every PCID meanwhile.

    processor                              store
    CR3: A, PCID 1; caches DATA: frame 2
    CR3: B, PCID 2, bit 63
                                           A's entry of DATA: frame 2 -> frame 4
    CR3: A, PCID 1, bit 63
    may use frame 2 still

Too much is allowed of a parked PCID: what its tables said only while it was parked, and the page
that an INVPCID of one page names, where there are global pages. Too little in one case: where an
upper entry is stale, the fresh leaf of a page that was invalidated under another PCID.

Source: Intel SDM vol. 3, 4.10.1 (PCIDs), 4.10.2.4 (global pages), 4.10.4.1 (what invalidates).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from vmm.hw.control import forgets_all
from vmm.hw.events import Invpcid, InvpcidType, RegistersWritten
from vmm.hw.history import (
    History,
    Leaf,
    Mark,
    ReadEntry,
    Store,
    forget_elsewhere,
    forget_page,
    keep_global,
    leaves,
    lose,
)
from vmm.hw.memory import part_of
from vmm.hw.paging import Controls, PagingRegisters, format_of
from vmm.units import ENTRY_BYTES, Gva

LONG_HISTORY = 1024
Leaves = Iterator[tuple[Leaf, PagingRegisters]]
"""Translations, each with the registers under which it was made."""


class Held(NamedTuple):
    """What may be held of a PCID beyond what the tables say now.

    ``controls``, ``cr3s``: other control states, and other values of CR3 with this PCID, under
    which it may have been cached. ``compacted``: the length of the history when it was last made
    shorter.
    """

    history: History = ()
    controls: tuple[Controls, ...] = ()
    cr3s: tuple[int, ...] = ()
    compacted: int = 0

    @property
    def long(self) -> int:
        """From this length on the history had better be made shorter, where it can be."""
        return LONG_HISTORY + 2 * self.compacted

    def lose(self, controls: Controls, words: Sequence[Store]) -> Held:
        """Words of memory were stored: each one entry, or two of 32-bit paging."""
        size = format_of(controls).entry_bytes
        if not size:
            return self
        if size != ENTRY_BYTES:
            words = [
                (gpa, part_of(old, gpa, size), part_of(new, gpa, size))
                for word, old, new in words
                for gpa in range(word, word + ENTRY_BYTES, size)
            ]
        history = lose(self.history, words)
        return self if history is self.history else self._replace(history=history)

    def forget(self, registers: PagingRegisters, *, has_global: bool) -> Held:
        """All but global translations; ``registers``: those before."""
        if not (has_global and registers.controls.pge):
            return Held()
        return self._replace(history=keep_global(self.history, registers))

    def leaves(self, registers: PagingRegisters, gva: Gva, read: ReadEntry) -> Leaves:
        """Every translation of ``gva`` that may be held, or be found by a walk."""
        for cr3 in (registers.cr3, *self.cr3s):
            history = self.history if cr3 == registers.cr3 else _under(self.history, cr3)
            for controls in (registers.controls, *self.controls):
                then = registers._replace(controls=controls, cr3=cr3)
                for leaf in leaves(history, then, gva, read):
                    yield leaf, then


def _under(history: History, cr3: int) -> History:
    """A history with one CR3 all along."""
    return tuple(
        [
            item._replace(registers=item.registers._replace(cr3=cr3))
            if isinstance(item, Mark)
            else item
            for item in history
        ]
    )


class Parked(NamedTuple):
    """A PCID that is not in use; ``registers``: when it last was.

    ``pages``: addresses whose global translations were invalidated since.
    """

    pcid: int
    registers: PagingRegisters
    held: Held
    pages: tuple[int, ...] = ()

    def resumed(self) -> Held:
        """What may be held when the PCID comes into use again."""
        history = forget_elsewhere(self.held.history, self.registers, [*self.pages])
        return self.held._replace(history=history)

    def global_leaves(self, gva: Gva, read: ReadEntry) -> Leaves:
        """The translations of ``gva`` that are of use under other PCIDs."""
        for leaf, then in self.held.leaves(self.registers, gva, read):
            if leaf.is_global and not any(leaf.covers(page) for page in self.pages):
                yield leaf, then


class Cached(NamedTuple):
    """What a processor may hold: of the PCID in use, and of others, by number."""

    held: Held = Held()
    parked: tuple[Parked, ...] = ()

    def lose(self, controls: Controls, words: Sequence[Store]) -> Cached:
        """Words of memory were stored; ``controls``: those in use."""
        held = self.held.lose(controls, words)
        if held is self.held and not self.parked:
            return self
        parked = [p._replace(held=p.held.lose(p.registers.controls, words)) for p in self.parked]
        return Cached(held, tuple(parked))

    def invlpg(self, registers: PagingRegisters, gva: Gva) -> Cached:
        """INVLPG, or a page fault at ``gva``: also its global translations of every PCID."""
        held = self.held._replace(history=forget_page(self.held.history, registers, gva))
        parked = [
            p._replace(pages=tuple(sorted(dict.fromkeys((*p.pages, gva))))) for p in self.parked
        ]
        return Cached(held, tuple(parked))

    def written(self, event: RegistersWritten, *, has_global: bool) -> Cached:
        """MOV CR3, or a change of control bits. MOV CR3 leaves global pages."""
        if event.mov_cr3:
            return self._mov_cr3(event, has_global=has_global)
        if event.pcids_off or forgets_all(event.old.controls, event.new.controls):
            return Cached()
        former = dict.fromkeys((*self.held.controls, event.old.controls))
        return self._replace(held=self.held._replace(controls=tuple(former)))

    def _mov_cr3(self, event: RegistersWritten, *, has_global: bool) -> Cached:
        old, new = event.pcids
        held, before, others = self.held, event.old, self.parked
        if old != new:
            found = [p for p in others if p.pcid == new]
            here = Parked(old, event.old, self.held)
            others = tuple(sorted([here, *(p for p in others if p.pcid != new)]))
            held = found[0].resumed() if found else Held()
            before = found[0].registers if found else event.new
        if not event.keeps:
            return Cached(held.forget(before, has_global=has_global), others)
        if before.cr3 != event.new.cr3:
            held = held._replace(cr3s=tuple(dict.fromkeys((*held.cr3s, before.cr3))))
        if before.controls != event.new.controls:
            held = held._replace(controls=tuple(dict.fromkeys((*held.controls, before.controls))))
        return Cached(held, others)

    def invpcid(self, event: Invpcid, registers: PagingRegisters, *, has_global: bool) -> Cached:
        """INVPCID; ``registers``: those in use."""
        match event.what:
            case InvpcidType.ALL:
                return Cached()
            case InvpcidType.ADDRESS:
                return self if has_global else self._forget_page(event, registers)
        every = event.what is InvpcidType.ALL_NON_GLOBAL
        held = self.held
        if every or event.pcid == event.current:
            held = held.forget(registers, has_global=has_global)
        parked = [
            p._replace(held=p.held.forget(p.registers, has_global=has_global))
            if every or p.pcid == event.pcid
            else p
            for p in self.parked
        ]
        return Cached(held, tuple(parked))

    def _forget_page(self, event: Invpcid, registers: PagingRegisters) -> Cached:
        def without(held: Held, state: PagingRegisters) -> Held:
            return held._replace(history=forget_page(held.history, state, event.gva))

        held = without(self.held, registers) if event.pcid == event.current else self.held
        parked = [
            p._replace(held=without(p.held, p.registers)) if p.pcid == event.pcid else p
            for p in self.parked
        ]
        return Cached(held, tuple(parked))

    def leaves(self, registers: PagingRegisters, gva: Gva, read: ReadEntry) -> Leaves:
        """Every translation of ``gva`` that may be used; ``registers``: those in use."""
        yield from self.held.leaves(registers, gva, read)
        if registers.controls.pge:
            for parked in self.parked:
                yield from parked.global_leaves(gva, read)


UNCHANGED = Cached()
"""Nothing but what the tables say now."""
