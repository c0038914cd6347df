"""x86-TSO: a store buffer between each program and memory.

    program              store buffer                  drain (eventual)        memory
    x := 1               x = 1
    load x: 1            (forwarded)                                           x is 0
    y := 2               x = 1, y = 2
                                                       peeks: x is next
                         y = 2                         drains x                x is 1
    cas z                waits until it is empty

Programs do not know of it. What a task publishes is turned into what its processor does:

- A plain op on buffered cells becomes ``Buffered``: it reads the newest own buffered store, else
  memory, and appends what it stores. It is disabled while the buffer is full.
- A locked one, a fence, a serialising write become ``Locked``: disabled until the buffer is empty.
- Giving a lock back is a plain store (smp_store_release). A read-modify-write of cells that only
  the holder of a lock may write is plain code, not a locked instruction.

Buffered are the cells that are memory (``Cell.buffered``). Not registers, TLBs and what one task
alone uses; nor cells that only the holder of a lock may touch, since nobody can look at them before
the release has drained, which comes after all they stood behind.

An event takes effect with its op on memory: that of a buffered store at its drain, every other one
at once. Lock discipline is judged when a program issues its access, by what it sees itself: after
its release has been issued it holds the lock no more, though memory still says so.

Source: Sewell et al., "x86-TSO: a rigorous and usable programmer's model" (CACM 2010).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from vmm.engine.cells import Cell, Guard
from vmm.engine.events import Event, EventSpec, resolve
from vmm.engine.monitor import View
from vmm.engine.ops import Atomically, Op, Update, Write, trap
from vmm.engine.task import Task, TaskKind
from vmm.engine.world import World

STORE_BUFFER_ENTRIES = 4
"""Stores that a buffer holds before the next one blocks: a bound of the model, not of silicon."""


class Entry(NamedTuple):
    """A buffered store: mostly to one cell. ``events`` are said when it reaches memory."""

    cells: tuple[Cell[Any], ...]
    values: tuple[Any, ...]
    events: tuple[Event, ...]


Buffer = Cell[tuple[Entry, ...]]
"""Oldest store first."""


class _Forwarding:
    """Memory as the owner of a store buffer sees it; keeps what is stored to ``shared`` cells."""

    __slots__ = ("memory", "pending", "shared", "stored")

    def __init__(self, memory: Any, pending: tuple[Entry, ...], shared: Mapping[int, Any]) -> None:
        self.memory = memory
        self.pending = pending
        self.shared = shared
        self.stored: dict[int, Any] = {}

    def __getitem__(self, index: int) -> Any:
        for entry in reversed(self.pending):
            for cell, value in zip(entry.cells, entry.values, strict=True):
                if cell.index == index:
                    return value
        return self.memory[index]

    def __setitem__(self, index: int, value: Any) -> None:
        if index in self.shared:
            self.stored[index] = value
        else:
            self.memory[index] = value


class BehindBuffer(Op, eq=False, gc=False):
    """``inner`` as a processor with a store buffer carries it out."""

    may_block: ClassVar[bool] = True
    writes: ClassVar[bool] = True

    inner: Op
    buffer: Buffer

    @property
    def cell(self) -> Cell[Any] | None:
        return self.inner.cell

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return (*self.inner.cells, self.buffer)

    @property
    def written(self) -> tuple[Cell[Any], ...]:
        return self.inner.written

    @property
    def event(self) -> EventSpec:
        return self.inner.event

    def operands(self) -> tuple[Hashable, ...]:
        return (self.inner.kind, self.inner.operands())

    def describe(self) -> str:
        return self.inner.describe()


def bare(op: Op) -> Op:
    """The op that the program published."""
    return op.inner if isinstance(op, BehindBuffer) else op


class Locked(BehindBuffer, eq=False, gc=False):
    """An op that waits until all earlier stores of its processor have reached memory."""

    kind: ClassVar[str] = "locked"
    locked: ClassVar[bool] = True

    def enabled(self, memory: Any, task: int) -> bool:
        return not memory[self.buffer.index] and self.inner.enabled(memory, task)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        return self.inner.run(memory, task)


class Buffered(BehindBuffer, eq=False, gc=False):
    """A plain op: loads are forwarded from the buffer, stores go into it, as one entry."""

    kind: ClassVar[str] = "buffered"

    @property
    def stores(self) -> bool:
        """Whether it puts anything into the buffer."""
        return any(cell.buffered for cell in self.inner.written)

    @property
    def written(self) -> tuple[Cell[Any], ...]:
        # Those behind the buffer too: a monitor judges the access by what it is going to write.
        return (*self.inner.written, self.buffer) if self.stores else self.inner.written

    @property
    def event(self) -> EventSpec:
        return None if self.stores else self.inner.event

    def operands(self) -> tuple[Hashable, ...]:
        # The event of a store goes into the buffer, so it tells two stores apart.
        event: Any = self.inner.event if self.stores else None
        return (*super().operands(), event)

    def enabled(self, memory: Any, task: int) -> bool:
        pending = memory[self.buffer.index]
        if self.stores and len(pending) >= STORE_BUFFER_ENTRIES:
            return False
        return self.inner.enabled(_Forwarding(memory, pending, {}), task)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        pending = memory[self.buffer.index]
        shared = {cell.index: cell for cell in self.inner.written if cell.buffered}
        seen = _Forwarding(memory, pending, shared)
        result, record = self.inner.run(seen, task)
        if shared:
            cells = tuple([shared[index] for index in seen.stored])
            events = resolve(self.inner.event, result)
            entry = Entry(cells, tuple(seen.stored.values()), events)
            memory[self.buffer.index] = (*pending, entry)
        return result, record


class Peek(Op, eq=False, gc=False):
    """The cells of the oldest buffered store; disabled while there is none."""

    kind: ClassVar[str] = "peek"
    may_block: ClassVar[bool] = True

    cell: Buffer
    event: EventSpec = None

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return bool(memory[self.cell.index])

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        cells = memory[self.cell.index][0].cells
        return cells, [cell.name for cell in cells]


class Drained(NamedTuple):
    """What a drain says, and the cells of the store that is the oldest now, if any."""

    events: tuple[Event, ...]
    following: tuple[Cell[Any], ...]


def _said(drained: Drained) -> tuple[Event, ...]:
    return drained.events


class Drain(Op, eq=False, gc=False):
    """Pop the oldest buffered store, which is to ``several``, and carry it out, in one action."""

    kind: ClassVar[str] = "drain"
    writes: ClassVar[bool] = True

    several: tuple[Cell[Any], ...]
    buffer: Buffer
    event: EventSpec = _said

    @property
    def cell(self) -> Cell[Any]:
        return self.several[0]

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return (*self.several, self.buffer)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        oldest, *rest = memory[self.buffer.index]
        for cell, value in zip(oldest.cells, oldest.values, strict=True):
            memory[cell.index] = value
        memory[self.buffer.index] = tuple(rest)
        return Drained(oldest.events, rest[0].cells if rest else ()), oldest.values

    def describe(self) -> str:
        return f"drain {', '.join([cell.name for cell in self.several])}"


async def drain(buffer: Buffer) -> None:
    """The hardware that lets buffered stores reach memory, in their order."""
    cells: tuple[Cell[Any], ...] = ()
    while True:
        if not cells:
            cells = await trap(Peek(buffer))
        # Nobody but this task takes stores out, so the next one is known here too.
        cells = (await trap(Drain(cells, buffer))).following


class Processor:
    """A processor with a store buffer, as ``Task.through``: what it does for a published op."""

    __slots__ = ("buffer",)

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer

    def __call__(self, op: Any) -> Any:
        if not isinstance(op, Op):
            return op
        if _is_locked(op):
            return Locked(op, self.buffer)
        buffered = any(cell.buffered for cell in op.cells)
        return Buffered(op, self.buffer) if buffered else op


class Interrupts(Processor):
    """Hardware that interrupts the processor with this store buffer."""

    __slots__ = ()

    def __call__(self, op: Any) -> Any:
        return Locked(op, self.buffer) if isinstance(op, Op) else op


def seen_by(task: Task, cell: Cell[Any], view: View) -> Any:
    """A cell's value as ``task`` would load it now."""
    if not isinstance(task.through, Processor):
        return view[cell]
    memory = {cell.index: view[cell]}
    return _Forwarding(memory, view[task.through.buffer], {})[cell.index]


def _is_locked(op: Op) -> bool:
    """Whether an op is a locked instruction or serialises."""
    if isinstance(op, Write):
        return op.serialising
    if isinstance(op, Update | Atomically) and all(c.guard is not Guard.NONE for c in op.written):
        return False
    if isinstance(op, Atomically) and not any(cell.buffered for cell in op.written):
        return False  # a processor at work on its own registers
    return op.locked


def add_store_buffers(world: World, interrupts: Mapping[int, int] = MappingProxyType({})) -> None:
    """Give each foreground task and daemon of a world a store buffer, and a task to drain it.

    To be called when all tasks are there. A task stands for the processor that it runs on: a
    thread that moves to another one takes nothing along, since a switch of threads is a full
    barrier. Other hardware acts on memory itself. ``interrupts``: tasks of hardware, by index, that
    interrupt another task's processor, hence act only once its buffer is empty (Intel SDM vol. 3,
    11.10: interrupts drain it).
    """
    programs = [t for t in world.tasks if t.kind in (TaskKind.FOREGROUND, TaskKind.DAEMON)]
    buffers: dict[int, Buffer] = {}
    for task in programs:
        buffer: Buffer = world.cell(
            f"store buffer of {task.name}",
            (),
            marked=True,
            observable=False,
            buffered=False,
            format=_format_buffer,
        )
        buffers[task.index] = buffer
        world.tasks[task.index] = replace(task, through=Processor(buffer))
    for hardware, target in interrupts.items():
        wait = Interrupts(buffers[target])
        world.tasks[hardware] = replace(world.tasks[hardware], through=wait)
    for task in programs:
        world.task(f"{task.name} drains", drain, buffers[task.index], kind=TaskKind.EVENTUAL)


def _format_buffer(entries: tuple[Entry, ...]) -> str:
    stores = [
        f"{cell.name} = {cell.format(value)}"
        for entry in entries
        for cell, value in zip(entry.cells, entry.values, strict=True)
    ]
    return ", ".join(stores) or "empty"
