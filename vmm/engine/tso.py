"""The op contract of x86-TSO: loads and stores through a store buffer.

A store buffer is a cell whose value is a tuple of (cell number, value), oldest first. A load sees
its own newest buffered store, else memory, in one op. A store is disabled while the buffer is full.
A drain peeks at the buffer first, so that it can name the cell, then pops and stores in one op.

Source: Sewell et al., "x86-TSO: a rigorous and usable programmer's model" (CACM 2010).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

from vmm.engine.cells import Cell
from vmm.engine.events import EventSpec
from vmm.engine.ops import Op, Trap, trap

STORE_BUFFER_ENTRIES = 4
"""Stores that a buffer holds before the next one blocks: a bound of the model, not of silicon."""

Buffer = Cell[tuple[tuple[int, Any], ...]]


class _BufferOp(Op, eq=False, gc=False):
    """An op on a cell behind a store buffer."""

    cell: Cell[Any]
    buffer: Buffer

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return (self.cell, self.buffer)


class TsoLoad(_BufferOp, eq=False, gc=False):
    """Read the newest own buffered store to the cell, else memory."""

    kind: ClassVar[str] = "tso-load"

    event: EventSpec = None

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        value = memory[self.cell.index]
        for index, stored in memory[self.buffer.index]:
            if index == self.cell.index:
                value = stored
        return value, value


class TsoStore(_BufferOp, eq=False, gc=False):
    """Append a store to the buffer; disabled while it is full."""

    kind: ClassVar[str] = "tso-store"
    may_block: ClassVar[bool] = True
    reads: ClassVar[bool] = False
    writes: ClassVar[bool] = True

    value: Any
    event: EventSpec = None

    @property
    def written(self) -> tuple[Cell[Any], ...]:
        return (self.buffer,)

    def operands(self) -> tuple[Hashable, ...]:
        return (self.value,)

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return len(memory[self.buffer.index]) < STORE_BUFFER_ENTRIES

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        memory[self.buffer.index] = (*memory[self.buffer.index], (self.cell.index, self.value))
        return None, self.value


class TsoDrain(_BufferOp, eq=False, gc=False):
    """Pop the oldest buffered store, which must be to ``cell``, and store it."""

    kind: ClassVar[str] = "tso-drain"
    may_block: ClassVar[bool] = True
    writes: ClassVar[bool] = True

    event: EventSpec = None

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        pending = memory[self.buffer.index]
        return bool(pending) and pending[0][0] == self.cell.index

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        (_, value), *rest = memory[self.buffer.index]
        memory[self.buffer.index] = tuple(rest)
        memory[self.cell.index] = value
        return None, value


def tso_load(cell: Cell[Any], buffer: Buffer) -> Trap[Any]:
    """Load through the store buffer."""
    return trap(TsoLoad(cell, buffer))


def tso_store(cell: Cell[Any], buffer: Buffer, value: Hashable) -> Trap[None]:
    """Store into the store buffer."""
    return trap(TsoStore(cell, buffer, value))


def tso_drain(cell: Cell[Any], buffer: Buffer) -> Trap[None]:
    """Let the oldest buffered store reach memory."""
    return trap(TsoDrain(cell, buffer))
