"""A second page walker, from the tables of SDM volume 3, chapter 4, alone.

It shares no code with the model and is built the other way round: it collects the whole path first,
then judges it, then sets bits. ``Registers`` has the fields of the model's controls by name only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

GP = "#GP"
Read = Callable[[int, int], int]
Write = Callable[[int, int, int], None]
Result = tuple[str, int, int]
"""("ok", gpa, 0), ("#PF", address, code) or ("#GP", address, 0)."""


def bit(value: int, number: int) -> int:
    return value >> number & 1


def bits(value: int, high: int, low: int) -> int:
    return value >> low & ~(-1 << high - low + 1) if high >= low else 0


class SdmWalker:
    """``read(gpa, size)`` and ``write(gpa, size, value)`` are memory; ``regs`` the registers."""

    def __init__(
        self, regs: Any, cr3: int, pdptes: tuple[int, ...], read: Read, write: Any
    ) -> None:
        self.regs, self.cr3, self.pdptes = regs, cr3, pdptes
        self.read, self.write = read, write
        self.long = bool(regs.lme)
        self.size = 8 if regs.pae else 4
        self.top = regs.maxphyaddr

    def access(self, gva: int, kind: Any) -> Result:
        """One access (4.1 to 4.8)."""
        if self.long and not self._canonical(gva):
            return GP, gva, 0
        path = self.path(gva)
        code = kind.write << 1 | kind.user << 2
        if kind.fetch and (self.regs.smep or (self.regs.pae and self.regs.nxe)):
            code |= 1 << 4
        name, at, entry = path[-1]
        refused = None
        if not bit(entry, 0):
            refused = code
        elif self._reserved(name, entry):
            refused = code | 1 << 3 | 1
        else:
            denied, key_denied = self._denied([e for n, _, e in path if n != "PDPTR"], kind)
            if denied or key_denied:
                refused = code | 1 | key_denied << 5
        for upper, gpa, value in path[:-1]:
            if upper != "PDPTR":
                self.write(gpa, self.size, value | 1 << 5)
        if refused is not None:
            return "#PF", gva, refused
        self.write(at, self.size, entry | 1 << 5 | kind.write << 6)
        return "ok", self._physical(name, entry, gva), 0

    def _canonical(self, gva: int) -> bool:
        top = bits(gva, 63, 56 if self.regs.la57 else 47)
        return top in (0, (1 << (8 if self.regs.la57 else 17)) - 1)

    # --- figures 4-2 to 4-10: where entries lie ---

    def path(self, gva: int) -> list[tuple[str, int, int]]:
        """(kind of entry, where, value), down to the first that maps a page or stops the walk."""
        if not self.regs.pae:
            names, at = ["PDE32", "PTE32"], bits(self.cr3, 31, 12) << 12
            indexes = [bits(gva, 31, 22), bits(gva, 21, 12)]
        elif not self.long:
            names, at = ["PDPTR", "PDE", "PTE"], 0
            indexes = [bits(gva, 31, 30), bits(gva, 29, 21), bits(gva, 20, 12)]
        else:
            names, at = ["PML4E", "PDPTE", "PDE", "PTE"], bits(self.cr3, 51, 12) << 12
            indexes = [bits(gva, low + 8, low) for low in (39, 30, 21, 12)]
            if self.regs.la57:
                names, indexes = ["PML5E", *names], [bits(gva, 56, 48), *indexes]
        path = []
        for name, index in zip(names, indexes, strict=True):
            gpa = at + index * self.size
            entry = self.pdptes[index] if name == "PDPTR" else self.read(gpa, self.size)
            large = self._large(name, entry)
            path.append((name + large, gpa, entry))
            if not bit(entry, 0) or large or self._reserved(name, entry):
                break
            at = bits(entry, 51, 12) << 12
        return path

    def _large(self, name: str, entry: int) -> str:
        if not bit(entry, 7):
            return ""
        if name == "PDE32":
            return " 4M" if self.regs.pse else ""
        return {"PDE": " 2M", "PDPTE": " 1G"}.get(name, "")

    # --- tables 4-4 to 4-20: what must be 0 ---

    def _reserved(self, name: str, entry: int) -> bool:
        if name == "PDPTR":
            return False  # looked at when CR3 was loaded
        if name in ("PDE32", "PTE32"):
            return False
        if name == "PDE32 4M":
            reach = min(40, self.top) if self.regs.pse36 else 32
            return bool(bits(entry, 21, reach - 19))
        wrong = [bits(entry, 51, self.top), 0 if self.regs.nxe else bit(entry, 63)]
        if not self.long:
            wrong.append(bits(entry, 62, 52))
        if name in ("PML5E", "PML4E"):
            wrong.append(bit(entry, 7))
        if name == "PDPTE 1G":
            wrong += [bits(entry, 29, 13), not self.regs.gbpages]
        if name == "PDE 2M":
            wrong.append(bits(entry, 20, 13))
        return any(wrong)

    # --- 4.6: access rights ---

    def _denied(self, entries: list[int], kind: Any) -> tuple[bool, bool]:
        """Whether the rights deny the access, and whether the protection key does."""
        regs = self.regs
        user_page = all(bit(entry, 2) for entry in entries)
        writable = all(bit(entry, 1) for entry in entries)
        no_execute = self.size == 8 and bool(regs.nxe) and any(bit(entry, 63) for entry in entries)
        if kind.user:
            denied = not user_page
            if kind.write:
                denied = denied or not writable
        else:
            denied = kind.write and bool(regs.wp) and not writable
            lifted = regs.ac and not kind.implicit
            if user_page and not kind.fetch and regs.smap and not lifted:
                denied = True
            if user_page and kind.fetch and regs.smep:
                denied = True
        if kind.fetch and no_execute:
            denied = True
        key_denied = False
        if self.long and regs.pke and user_page and not kind.fetch:
            key = bits(entries[-1], 62, 59)
            key_denied = bool(bit(regs.pkru, 2 * key)) or bool(
                kind.write and bit(regs.pkru, 2 * key + 1) and (kind.user or regs.wp)
            )
        return bool(denied), key_denied

    def _physical(self, name: str, entry: int, gva: int) -> int:
        if name == "PDE32 4M":
            return bits(entry, 20, 13) << 32 | bits(entry, 31, 22) << 22 | bits(gva, 21, 0)
        if name == "PTE32":
            return bits(entry, 31, 12) << 12 | bits(gva, 11, 0)
        low = {"PDPTE 1G": 30, "PDE 2M": 21, "PTE": 12}[name]
        return bits(entry, 51, low) << low | bits(gva, low - 1, 0)
