"""Ops: the only way in which a task acts.

A task publishes an op and stops; the engine decides when it takes effect. ``enabled`` and ``run``
see nothing but the values of the op's own cells, named from local state alone. ``run`` works on
anything indexed by cell number: the memory of a live run, or the few values of a learned edge.

``run`` gives (result, record): the result goes to the task, the record into the trace digest.
"""

from __future__ import annotations

import types
import zlib
from collections.abc import Awaitable, Callable, Generator, Hashable
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from vmm.engine.events import AuditPoint, Event, EventSpec, Goal
from vmm.errors import UsageError

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, Lock

R = TypeVar("R")
Trap = Awaitable[R]


@types.coroutine
def trap(op: Op) -> Generator[Op, Any, Any]:
    """Publish ``op``; the value is its result."""
    return (yield op)


class Op:
    """What a task is about to do.

    ``cell`` is the first cell that it names (None for ops on no cell); ``branches`` is the number
    of ways in which it may come out; ``may_block`` ops can be disabled.
    """

    __slots__ = ("cell", "event")
    kind: ClassVar[str]
    code: ClassVar[int]
    """The kind as a number that is the same in every process, for digests."""
    may_block: ClassVar[bool] = False
    reads: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    locked: ClassVar[bool] = False
    branches: int = 1
    cell: Cell[Any] | None
    event: EventSpec

    def __init_subclass__(cls) -> None:
        if "kind" in cls.__dict__:
            cls.code = zlib.crc32(cls.kind.encode()) & 0xFFFF

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        """All cells that the op names."""
        return () if self.cell is None else (self.cell,)

    @property
    def written(self) -> tuple[Cell[Any], ...]:
        """The cells that the op may change."""
        return self.cells if self.writes else ()

    def operands(self) -> tuple[Hashable, ...]:
        """What tells two ops of one kind on the same cells apart, apart from the event."""
        return ()

    def enabled(self, memory: Any, task: int) -> bool:
        """Whether the op may take effect now."""
        del memory, task
        return True

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        """Take effect. Gives (result, record)."""
        raise NotImplementedError

    def describe(self) -> str:
        """The op in one phrase, for reports."""
        return f"{self.kind} {self.cell.name}" if self.cell is not None else self.kind

    def __repr__(self) -> str:
        return f"<{self.describe()}>"


class _CellOp(Op):
    """An op on exactly one cell."""

    __slots__ = ()
    cell: Cell[Any]


class Read(_CellOp):
    """The result is the cell's value."""

    __slots__ = ()
    kind = "read"

    def __init__(self, cell: Cell[Any], event: EventSpec = None) -> None:
        self.cell = cell
        self.event = event

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        value = memory[self.cell.index]
        return value, value


class Write(_CellOp):
    """Store a value."""

    __slots__ = ("value",)
    kind = "write"
    reads = False
    writes = True

    def __init__(self, cell: Cell[Any], value: Hashable, event: EventSpec = None) -> None:
        self.cell = cell
        self.value = value
        self.event = event

    def operands(self) -> tuple[Hashable, ...]:
        return (self.value,)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        memory[self.cell.index] = self.value
        return None, self.value


class Cas(_CellOp):
    """Store ``new`` if the cell holds ``old``; the result says whether it did."""

    __slots__ = ("new", "old")
    kind = "cas"
    writes = True
    locked = True

    def __init__(
        self, cell: Cell[Any], old: Hashable, new: Hashable, event: EventSpec = None
    ) -> None:
        self.cell = cell
        self.old = old
        self.new = new
        self.event = event

    def operands(self) -> tuple[Hashable, ...]:
        return (self.old, self.new)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        index = self.cell.index
        found = memory[index]
        won = bool(found == self.old)
        if won:
            memory[index] = self.new
        return won, (won, memory[index])


class Update(_CellOp):
    """Locked read-modify-write by a pure function of the value."""

    __slots__ = ("args", "fn")
    kind = "update"
    writes = True
    locked = True

    def __init__(
        self,
        cell: Cell[Any],
        fn: Callable[..., tuple[Any, Any]],
        args: tuple[Hashable, ...] = (),
        event: EventSpec = None,
    ) -> None:
        self.cell = cell
        self.fn = fn
        self.args = args
        self.event = event

    def operands(self) -> tuple[Hashable, ...]:
        return (self.fn, self.args)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        index = self.cell.index
        new, result = self.fn(memory[index], *self.args)
        memory[index] = new
        return result, (result, new)


class Acquire(_CellOp):
    """Take a lock; disabled while it is held."""

    __slots__ = ()
    kind = "acquire"
    may_block = True
    writes = True
    locked = True

    def __init__(self, lock: Lock) -> None:
        self.cell = lock
        self.event = None

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return not memory[self.cell.index]

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        memory[self.cell.index] = task + 1
        return None, task


class Release(_CellOp):
    """Give a lock back."""

    __slots__ = ()
    kind = "release"
    writes = True
    locked = True

    def __init__(self, lock: Lock, event: EventSpec = None) -> None:
        self.cell = lock
        self.event = event

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        owner = memory[self.cell.index]
        if owner != task + 1:
            raise UsageError(
                f"task {task} releases {self.cell.name}, which is {self.cell.format(owner)}; "
                "a task may release only a lock that it acquired"
            )
        memory[self.cell.index] = 0
        return None, task


class Atomically(Op):
    """One hardware action on several cells: the first ``seen`` of them are only read.

    ``fn(*values, *args)`` gives (new values of the others, result); ``when(*values)`` says whether
    it may happen.
    """

    __slots__ = ("_cells", "args", "fn", "seen", "when")
    kind = "atomically"
    writes = True
    locked = True

    def __init__(
        self,
        fn: Callable[..., tuple[tuple[Any, ...], Any]],
        cells: tuple[Cell[Any], ...],
        args: tuple[Hashable, ...],
        when: Callable[..., bool] | None,
        seen: int,
        event: EventSpec,
    ) -> None:
        self.fn = fn
        self._cells = cells
        self.cell = cells[0]
        self.args = args
        self.when = when
        self.seen = seen
        self.event = event

    @property
    def may_block(self) -> bool:  # type: ignore[override]
        """Only a guarded action can be disabled."""
        return self.when is not None

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return self._cells

    @property
    def written(self) -> tuple[Cell[Any], ...]:
        return self._cells[self.seen :]

    def operands(self) -> tuple[Hashable, ...]:
        return (self.fn, self.args, self.when, self.seen)

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return self.when is None or self.when(*[memory[c.index] for c in self._cells])

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        cells = self._cells
        new, result = self.fn(*[memory[c.index] for c in cells], *self.args)
        for cell, value in zip(cells[self.seen :], new, strict=True):
            memory[cell.index] = value
        return result, (result, new)

    def describe(self) -> str:
        return f"{_phrase(self.fn)} {', '.join(c.name for c in self.written)}"


class Observe(Op):
    """Read several cells in one action: the result is ``fn(*values, *args)``."""

    __slots__ = ("_cells", "args", "fn")
    kind = "observe"

    def __init__(
        self,
        fn: Callable[..., Any],
        cells: tuple[Cell[Any], ...],
        args: tuple[Hashable, ...],
        event: EventSpec,
    ) -> None:
        self.fn = fn
        self._cells = cells
        self.cell = cells[0]
        self.args = args
        self.event = event

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return self._cells

    def operands(self) -> tuple[Hashable, ...]:
        return (self.fn, self.args)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        result = self.fn(*[memory[c.index] for c in self._cells], *self.args)
        return result, result

    def describe(self) -> str:
        return f"read {', '.join(c.name for c in self._cells)}"


class WaitUntil(Op):
    """Disabled until ``pred(*values)`` holds; the result is the values, seen at once."""

    __slots__ = ("_cells", "pred")
    kind = "wait"
    may_block = True

    def __init__(
        self, cells: tuple[Cell[Any], ...], pred: Callable[..., bool], event: EventSpec
    ) -> None:
        self._cells = cells
        self.cell = cells[0]
        self.pred = pred
        self.event = event

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return self._cells

    def operands(self) -> tuple[Hashable, ...]:
        return (self.pred,)

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return self.pred(*[memory[c.index] for c in self._cells])

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        values = tuple(memory[c.index] for c in self._cells)
        return values, values

    def describe(self) -> str:
        return f"wait for {', '.join(c.name for c in self._cells)}"


def _phrase(fn: Callable[..., Any]) -> str:
    """The name of an action's function as a phrase."""
    return fn.__name__.strip("_").replace("_", " ")


class Choose(Op):
    """A branching edge: any of 0 .. n - 1. The engine decides; ``run`` is not used."""

    __slots__ = ("branches",)
    kind = "choose"

    def __init__(self, n: int, event: EventSpec = None) -> None:
        if n < 1:
            raise UsageError(f"choose({n}): a choice needs at least one way out")
        self.cell = None
        self.branches = n
        self.event = event

    def operands(self) -> tuple[Hashable, ...]:
        return (self.branches,)


class _NoOp(Op):
    """An op that changes nothing and gives None."""

    __slots__ = ()
    reads = False

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del memory, task
        return None, None


class Fence(_NoOp):
    """A full barrier. With a store buffer: disabled until the buffer is empty."""

    __slots__ = ("buffer",)
    kind = "fence"
    may_block = True

    def __init__(self, buffer: Cell[Any] | None = None) -> None:
        self.cell = buffer
        self.event = None

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return self.cell is None or not memory[self.cell.index]


class Mark(_NoOp):
    """A step that only says something: a goal is reached, or another event happened."""

    __slots__ = ("said",)
    kind = "mark"

    def __init__(self, said: Event) -> None:
        self.cell = None
        self.said = said
        self.event = said

    def operands(self) -> tuple[Hashable, ...]:
        return (self.said,)

    def describe(self) -> str:
        return f"mark {self.said.name!r}" if isinstance(self.said, Goal) else f"mark {self.said}"


class Audit(_NoOp):
    """An audit point as a step of its own."""

    __slots__ = ("point",)
    kind = "audit"

    def __init__(self, point: str) -> None:
        self.cell = None
        self.point = point
        self.event = AuditPoint(point)

    def operands(self) -> tuple[Hashable, ...]:
        return (self.point,)

    def describe(self) -> str:
        return f"audit {self.point}"


def wait_until(
    cells: tuple[Cell[Any], ...] | Cell[Any],
    pred: Callable[..., bool],
    *,
    event: EventSpec = None,
) -> Trap[tuple[Any, ...]]:
    """Wait until ``pred`` holds of the cells' values; the result is those values."""
    return trap(WaitUntil(cells if isinstance(cells, tuple) else (cells,), pred, event))


def choose(n: int, *, event: EventSpec = None) -> Trap[int]:
    """One of 0 .. n - 1, left to the scheduler; a search takes all."""
    return trap(Choose(n, event))


def fence(buffer: Cell[Any] | None = None) -> Trap[None]:
    """A full memory barrier."""
    return trap(Fence(buffer))


def atomically(
    fn: Callable[..., tuple[tuple[Any, ...], R]],
    cells: tuple[Cell[Any], ...],
    *args: Hashable,
    reads: tuple[Cell[Any], ...] = (),
    when: Callable[..., bool] | None = None,
    event: EventSpec = None,
) -> Trap[R]:
    """One hardware action: ``fn(*read values, *values, *args)`` -> (new values, result)."""
    return trap(Atomically(fn, (*reads, *cells), args, when, len(reads), event))


def observe(
    fn: Callable[..., R],
    cells: tuple[Cell[Any], ...],
    *args: Hashable,
    event: EventSpec = None,
) -> Trap[R]:
    """Read several cells in one action: ``fn(*values, *args)`` is the result."""
    return trap(Observe(fn, cells, args, event))


def mark(said: str | Event) -> Trap[None]:
    """Reach the goal of that name, or let another event happen as a step of its own."""
    return trap(Mark(Goal(said) if isinstance(said, str) else said))


def audit_point(name: str) -> Trap[None]:
    """A step at which all audits run."""
    return trap(Audit(name))
