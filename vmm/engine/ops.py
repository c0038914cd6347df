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

import msgspec

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


class Op(msgspec.Struct, eq=False, gc=False):
    """What a task is about to do. Never changed once it is published.

    ``branches`` is the number of ways in which it may come out; ``may_block`` ops can be disabled.
    """

    kind: ClassVar[str]
    code: ClassVar[int]
    """The kind as a number that is the same in every process, for digests."""
    may_block: ClassVar[bool] = False
    reads: ClassVar[bool] = True
    writes: ClassVar[bool] = False
    locked: ClassVar[bool] = False
    branches: ClassVar[int] = 1
    held: ClassVar[str] = "held by"
    """What its ``holders`` have to do with its cell."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            cls.code = zlib.crc32(cls.kind.encode()) & 0xFFFF

    @property
    def cell(self) -> Cell[Any] | None:
        """The first cell that the op names; None if it names none."""
        return None

    @property
    def event(self) -> EventSpec:
        """What the op means."""
        return None

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

    def holders(self, value: Any) -> tuple[int, ...]:
        """The tasks that keep it from taking effect, by the value of its cell."""
        del value
        return ()

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        """Take effect. Gives (result, record)."""
        raise NotImplementedError

    def describe(self) -> str:
        """The op in one phrase, for reports."""
        return f"{self.kind} {self.cell.name}" if self.cell is not None else self.kind

    def __repr__(self) -> str:
        return f"<{self.describe()}>"


class Read(Op, eq=False, gc=False):
    """The result is the cell's value."""

    kind: ClassVar[str] = "read"

    cell: Cell[Any]
    event: EventSpec = None

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        value = memory[self.cell.index]
        return value, value


class Write(Op, eq=False, gc=False):
    """Store a value. ``serialising``: not before all earlier stores have reached memory.

    That is an exchange with memory, or a write to a register that serialises.
    """

    kind: ClassVar[str] = "write"
    reads: ClassVar[bool] = False
    writes: ClassVar[bool] = True

    cell: Cell[Any]
    value: Any
    event: EventSpec = None
    serialising: bool = False

    def operands(self) -> tuple[Hashable, ...]:
        return (self.value,)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        memory[self.cell.index] = self.value
        return None, self.value


class Cas(Op, eq=False, gc=False):
    """Store ``new`` if the cell holds ``old``; the result says whether it did."""

    kind: ClassVar[str] = "cas"
    writes: ClassVar[bool] = True
    locked: ClassVar[bool] = True

    cell: Cell[Any]
    old: Any
    new: Any
    event: EventSpec = None

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


class Update(Op, eq=False, gc=False):
    """Locked read-modify-write by a pure function: ``fn(value, *args)`` -> (new value, result)."""

    kind: ClassVar[str] = "update"
    writes: ClassVar[bool] = True
    locked: ClassVar[bool] = True

    cell: Cell[Any]
    fn: Callable[..., tuple[Any, Any]]
    args: tuple[Any, ...] = ()
    event: EventSpec = None

    def operands(self) -> tuple[Hashable, ...]:
        return (self.fn, self.args)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        index = self.cell.index
        new, result = self.fn(memory[index], *self.args)
        memory[index] = new
        return result, (new, result)


class Acquire(Op, eq=False, gc=False):
    """Take a lock; disabled while it is held."""

    kind: ClassVar[str] = "acquire"
    may_block: ClassVar[bool] = True
    writes: ClassVar[bool] = True
    locked: ClassVar[bool] = True

    cell: Lock
    event: EventSpec = None

    def holders(self, value: Any) -> tuple[int, ...]:
        return self.cell.holders(value)

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return not memory[self.cell.index]

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        memory[self.cell.index] = task + 1
        return None, task


class Release(Op, eq=False, gc=False):
    """Give a lock back: a plain store."""

    kind: ClassVar[str] = "release"
    writes: ClassVar[bool] = True

    cell: Lock
    event: EventSpec = None

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        owner = memory[self.cell.index]
        if owner != task + 1:
            raise UsageError(
                f"task {task} releases {self.cell.name}, which is {self.cell.format(owner)}; "
                "a task may release only a lock that it acquired"
            )
        memory[self.cell.index] = 0
        return None, task


class Atomically(Op, eq=False, gc=False):
    """One hardware action on several cells: the first ``seen`` of them are only read.

    ``fn(*values, *args)`` gives (new values of the others, result).
    """

    kind: ClassVar[str] = "atomically"
    writes: ClassVar[bool] = True
    locked: ClassVar[bool] = True

    fn: Callable[..., tuple[tuple[Any, ...], Any]]
    several: tuple[Cell[Any], ...]
    args: tuple[Any, ...] = ()
    seen: int = 0
    event: EventSpec = None

    @property
    def cell(self) -> Cell[Any]:
        return self.several[0]

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return self.several

    @property
    def written(self) -> tuple[Cell[Any], ...]:
        return self.several[self.seen :]

    def operands(self) -> tuple[Hashable, ...]:
        return (self.fn, self.args, self.seen)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        cells = self.several
        new, result = self.fn(*[memory[c.index] for c in cells], *self.args)
        for cell, value in zip(cells[self.seen :], new, strict=True):
            memory[cell.index] = value
        return result, (new, result)

    def describe(self) -> str:
        return f"{_phrase(self.fn)} {', '.join(c.name for c in self.written)}"


class AtomicallyWhen(Atomically, eq=False, gc=False):
    """A hardware action that may happen only when ``when(*values)`` holds."""

    kind: ClassVar[str] = "atomically when"
    may_block: ClassVar[bool] = True

    when: Callable[..., bool] = bool

    def operands(self) -> tuple[Hashable, ...]:
        return (self.fn, self.args, self.seen, self.when)

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return self.when(*[memory[c.index] for c in self.several])


class Observe(Op, eq=False, gc=False):
    """Read several cells in one action: the result is ``fn(*values, *args)``."""

    kind: ClassVar[str] = "observe"

    fn: Callable[..., Any]
    several: tuple[Cell[Any], ...]
    args: tuple[Any, ...] = ()
    event: EventSpec = None

    @property
    def cell(self) -> Cell[Any]:
        return self.several[0]

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return self.several

    def operands(self) -> tuple[Hashable, ...]:
        return (self.fn, self.args)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        result = self.fn(*[memory[c.index] for c in self.several], *self.args)
        return result, result

    def describe(self) -> str:
        return f"read {', '.join(c.name for c in self.several)}"


class WaitUntil(Op, eq=False, gc=False):
    """Disabled until ``pred(*values)`` holds; the result is the values, seen at once."""

    kind: ClassVar[str] = "wait"
    may_block: ClassVar[bool] = True

    several: tuple[Cell[Any], ...]
    pred: Callable[..., bool]
    event: EventSpec = None

    @property
    def cell(self) -> Cell[Any]:
        return self.several[0]

    @property
    def cells(self) -> tuple[Cell[Any], ...]:
        return self.several

    def operands(self) -> tuple[Hashable, ...]:
        return (self.pred,)

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return self.pred(*[memory[c.index] for c in self.several])

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        values = tuple([memory[c.index] for c in self.several])
        return values, values

    def describe(self) -> str:
        return f"wait for {', '.join(c.name for c in self.several)}"


def _phrase(fn: Callable[..., Any]) -> str:
    """The name of an action's function as a phrase."""
    return fn.__name__.strip("_").replace("_", " ")


class Choose(Op, eq=False, gc=False):
    """A branching edge: any of 0 .. n - 1. The engine decides; ``run`` is not used."""

    kind: ClassVar[str] = "choose"

    n: int
    event: EventSpec = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"choose({self.n}): a choice needs at least one way out")

    @property
    def branches(self) -> int:  # type: ignore[override]
        """As many ways as were asked for."""
        return self.n

    def operands(self) -> tuple[Hashable, ...]:
        return (self.n,)


class _NoOp(Op, eq=False, gc=False):
    """An op that changes nothing and gives None."""

    reads: ClassVar[bool] = False

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del memory, task
        return None, None


class Fence(_NoOp, eq=False, gc=False):
    """A full barrier, for whoever has a store buffer."""

    kind: ClassVar[str] = "fence"
    locked: ClassVar[bool] = True


class Mark(_NoOp, eq=False, gc=False):
    """A step that only says something: a goal is reached, or another event happened."""

    kind: ClassVar[str] = "mark"

    event: Event

    def operands(self) -> tuple[Hashable, ...]:
        return (self.event,)

    def describe(self) -> str:
        return f"mark {self.event.name!r}" if isinstance(self.event, Goal) else f"mark {self.event}"


class Audit(_NoOp, eq=False, gc=False):
    """An audit point as a step of its own."""

    kind: ClassVar[str] = "audit"

    event: AuditPoint

    def operands(self) -> tuple[Hashable, ...]:
        return (self.event,)

    def describe(self) -> str:
        return f"audit {self.event.name}"


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


def fence() -> Trap[None]:
    """A full memory barrier."""
    return trap(Fence())


def atomically(
    fn: Callable[..., tuple[tuple[Any, ...], R]],
    cells: tuple[Cell[Any], ...],
    *args: Hashable,
    reads: tuple[Cell[Any], ...] = (),
    when: Callable[..., bool] | None = None,
    event: EventSpec = None,
) -> Trap[R]:
    """One hardware action: ``fn(*read values, *values, *args)`` -> (new values, result)."""
    if when is None:
        return trap(Atomically(fn, (*reads, *cells), args, len(reads), event))
    return trap(AtomicallyWhen(fn, (*reads, *cells), args, len(reads), event, when))


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
    return trap(Audit(AuditPoint(name)))
