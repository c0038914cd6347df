"""A machine without a hypervisor: words of memory, the second walker, and control registers.

Shares no code with the model: walks are those of ``tests/hw/sdm_walker.py``, and what a write to a
control register refuses or loads is said here, from SDM volume 3, 2.5, 4.1.2 and 4.4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tests.hw.sdm_walker import Result, SdmWalker, bit, bits
from vmm.units import word_of

WORD = 8
PAGE = 4096
SWITCHES = {
    "32-bit": {"pae": False, "lme": False, "la57": False},
    "pae": {"pae": True, "lme": False, "la57": False},
    "4-level": {"pae": True, "lme": True, "la57": False},
    "5-level": {"pae": True, "lme": True, "la57": True},
}


class Kind(NamedTuple):
    """What an access asks for."""

    write: bool
    user: bool
    fetch: bool
    implicit: bool = False


@dataclass
class Registers:
    """The control state of a processor; fields as ``SdmWalker`` wants them."""

    pg: bool = True
    wp: bool = True
    pae: bool = True
    pse: bool = True
    pge: bool = True
    la57: bool = False
    smep: bool = False
    smap: bool = False
    lme: bool = True
    nxe: bool = True
    ac: bool = False
    pke: bool = False
    pkru: int = 0
    maxphyaddr: int = 32
    pse36: bool = True
    gbpages: bool = True
    cr3: int = 0
    pdptes: tuple[int, ...] = ()

    @property
    def uses_pdptes(self) -> bool:
        """Whether PAE paging is on."""
        return self.pg and self.pae and not self.lme


class PlainMachine:
    """Memory as words, which are zeros unless told, and the registers of each processor."""

    def __init__(self, words: Mapping[int, int], registers: list[Registers]) -> None:
        self.words = dict(words)
        self.cpus = registers

    # --- memory ---

    def read(self, gpa: int, size: int) -> int:
        """An aligned entry."""
        return self.words.get(word_of(gpa), 0) >> 8 * (gpa % WORD) & (1 << 8 * size) - 1

    def write(self, gpa: int, size: int, value: int) -> None:
        """A store of any size, anywhere."""
        for at in range(size):
            word, shift = word_of(gpa + at), 8 * ((gpa + at) % WORD)
            byte = value >> 8 * at & 0xFF
            self.words[word] = self.words.get(word, 0) & ~(0xFF << shift) | byte << shift

    # --- translation ---

    def access(self, cpu: int, gva: int, kind: Kind, **others: Any) -> Result:
        """One access with all that it leaves in the entries; ``others`` replace register fields."""
        return self._walk(replace(self.cpus[cpu], **others), self.write, gva, kind)

    def look(self, cpu: int, gva: int, kind: Kind, **others: Any) -> Result:
        """What an access would meet; leaves nothing."""
        return self.probe(cpu, gva, kind, **others)[0]

    def probe(self, cpu: int, gva: int, kind: Kind, **others: Any) -> tuple[Result, bool]:
        """What an access would meet, and whether it would change an entry; leaves nothing."""
        changed = False

        def note(gpa: int, size: int, value: int) -> None:
            nonlocal changed
            changed = changed or self.read(gpa, size) != value

        return self._walk(replace(self.cpus[cpu], **others), note, gva, kind), changed

    def path(self, cpu: int, gva: int) -> list[tuple[str, int, int]]:
        """What a walk meets: kind, place and value of each entry; nothing without paging."""
        regs = self.cpus[cpu]
        if not regs.pg:
            return []
        return SdmWalker(regs, regs.cr3, regs.pdptes, self.read, _ignore).path(gva)

    def leaf(self, cpu: int, gva: int) -> tuple[int, bool, bool]:
        """Where the last entry of a walk lies, and whether the whole walk grants U and W."""
        path = self.path(cpu, gva)
        entries = [entry for name, _, entry in path if name != "PDPTR"]
        return path[-1][1], all(bit(e, 2) for e in entries), all(bit(e, 1) for e in entries)

    def _walk(
        self, regs: Registers, write: Callable[[int, int, int], None], gva: int, kind: Kind
    ) -> Result:
        if not regs.pg:
            return "ok", gva, 0
        return SdmWalker(regs, regs.cr3, regs.pdptes, self.read, write).access(gva, kind)

    # --- control registers ---

    def mov_cr3(self, cpu: int, value: int) -> bool:
        """Whether the processor takes the value, which it then has."""
        return self._become(cpu, replace(self.cpus[cpu], cr3=value), load=True)

    def change(self, cpu: int, **said: Any) -> bool:
        """Whether the processor takes new control bits, which it then has. AC is never refused."""
        old = self.cpus[cpu]
        new = replace(old, **said)
        active = old.pg and old.lme
        if old.lme != new.lme and old.pg:
            return False
        if active and new.pg and (old.la57 != new.la57 or not new.pae):
            return False
        if new.pg and not old.pg and new.lme and not new.pae:
            return False
        watched = ("pg", "pae", "pge", "pse", "smep")
        return self._become(cpu, new, load=any(getattr(old, n) != getattr(new, n) for n in watched))

    def _become(self, cpu: int, new: Registers, *, load: bool) -> bool:
        if new.uses_pdptes and load:
            base = bits(new.cr3, 31, 5) << 5
            new = replace(new, pdptes=tuple(self.read(base + 8 * n, 8) for n in range(4)))
            for entry in new.pdptes:
                wrong = bits(entry, 2, 1) or bits(entry, 8, 5) or bits(entry, 63, new.maxphyaddr)
                if bit(entry, 0) and wrong:
                    return False
        self.cpus[cpu] = new
        return True


def _ignore(gpa: int, size: int, value: int) -> None:
    del gpa, size, value
