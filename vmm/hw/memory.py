"""Physical memory as 8-byte words, each a cell made at first touch.

Guest frames lie at the host frames of the same number unless host paging moved them, so one array
serves the guest, the host and the walker alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from vmm.bits import format_gpte
from vmm.engine.world import ModelObject, World
from vmm.units import PAGE_SHIFT, Gpa, entry_index, word_of

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, CellArray


class Memory(ModelObject):
    """Words by address. Frames of ``tables`` print their words as paging entries."""

    def __init__(self, world: World, content: Mapping[int, int], tables: tuple[int, ...]) -> None:
        self.table_frames = MappingProxyType(dict.fromkeys(tables, True))
        self._entries = world.array(
            "gpte", 0, label=_entry_label, content=content, marked=True, format=format_gpte
        )
        self._words = world.array(
            "ram", 0, label=lambda gpa: f"ram {gpa:#x}", content=content, marked=True, format=hex
        )

    @property
    def arrays(self) -> tuple[CellArray[int, int], CellArray[int, int]]:
        """All words, by address: those of tables, and the others."""
        return self._entries, self._words

    def word(self, address: int) -> Cell[int]:
        """The word that holds the byte at ``address`` (gpa or hpa, bytes)."""
        aligned = word_of(address)
        if aligned >> PAGE_SHIFT in self.table_frames:
            return self._entries[aligned]
        return self._words[aligned]


def _entry_label(gpa: int) -> str:
    return f"gpte {gpa >> PAGE_SHIFT << PAGE_SHIFT:#x}[{entry_index(Gpa(gpa))}]"


def merge(old: int, value: int, offset: int, size: int) -> tuple[int, None]:
    """Store ``size`` bytes at byte ``offset`` of a word; for ``Cell.update``."""
    mask = (1 << 8 * size) - 1 << 8 * offset
    return old & ~mask | value << 8 * offset & mask, None
