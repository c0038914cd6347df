"""Cells: the named locations that hold all shared state.

A cell's value is immutable: an int, a string, a tuple, an enum member, a frozen record. A task
reads with ``await cell`` and writes with ``await cell.set(value)``; both publish an op first.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vmm.engine import ops

if TYPE_CHECKING:
    from collections.abc import Generator

    from vmm.engine.events import EventSpec
    from vmm.engine.ops import Trap

V = TypeVar("V", bound=Hashable)
R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


class Guard(enum.Enum):
    """Which accesses to a cell need its lock."""

    NONE = "none"
    FULL = "guarded"
    """Reads and writes need the lock."""
    WRITE = "write guarded"
    """Stores need the lock. Reads may race with them and are marked."""
    EXCHANGE = "write guarded, but for compare-and-swap"
    """Like ``WRITE``, but who has no lock may compare and swap."""


class Cell(Generic[V]):
    """One shared location.

    ``marked`` cells race by design (sptes, gptes, requests): their accesses count as marked.
    ``observable`` cells make up the terminal contents that a search reports. ``buffered`` cells are
    memory: plain stores to them go through a store buffer where there is one. Not registers, what
    one task alone uses, and what only the holder of a lock may touch.
    """

    __slots__ = (
        "array",
        "buffered",
        "format",
        "guard",
        "index",
        "initial",
        "key",
        "lock",
        "marked",
        "name",
        "observable",
        "place",
        "read_op",
        "shared_with",
        "tag",
    )

    def __init__(
        self,
        name: str,
        initial: V,
        index: int,
        *,
        guard: Guard = Guard.NONE,
        lock: Lock | None = None,
        marked: bool = False,
        observable: bool = True,
        buffered: bool = True,
        format: Callable[[Any], str] = repr,  # noqa: A002 - the field's natural name
    ) -> None:
        self.name = name
        self.initial = initial
        self.index = index
        self.guard = guard
        self.lock = lock
        self.marked = marked
        self.observable = observable
        self.buffered = buffered and guard is not Guard.FULL
        self.format = format
        self.shared_with: tuple[Lock, ...] | None = None
        """Who shares ``lock`` may store to the cell if it has all these too; None: it may not."""
        self.array: CellArray[Any, V] | None = None
        self.place: Cell[V] | CellArray[Any, V] = self
        """What a monitor names to hear of the cell: its array, else itself."""
        self.key: Hashable = None
        # The name, not the index, goes into digests: sparse cells are numbered by first touch.
        self.tag = zlib.crc32(name.encode())
        self.read_op = ops.Read(self)

    def __repr__(self) -> str:
        return f"<cell {self.name}>"

    def __await__(self) -> Generator[ops.Op, Any, V]:
        return (yield self.read_op)  # type: ignore[no-any-return]

    def read(self, *, event: EventSpec = None) -> Trap[V]:
        """Read with an event that takes effect atomically with the read."""
        return ops.trap(ops.Read(self, event))

    def set(self, value: V, *, event: EventSpec = None, serialising: bool = False) -> Trap[None]:
        """Write ``value``; ``serialising``: not before all earlier stores have reached memory."""
        return ops.trap(ops.Write(self, value, event, serialising))

    def cas(self, old: V, new: V, *, event: EventSpec = None) -> Trap[bool]:
        """Locked compare-and-swap; the result says whether ``new`` was stored."""
        return ops.trap(ops.Cas(self, old, new, event))

    def update(
        self, fn: Callable[..., tuple[V, R]], *args: Hashable, event: EventSpec = None
    ) -> Trap[R]:
        """Locked read-modify-write: ``fn(value, *args)`` gives (new value, result)."""
        return ops.trap(ops.Update(self, fn, args, event))


class Lock(Cell[int]):
    """A model lock: 0 when free, else the index of the owning task plus one.

    ``release_event`` takes effect with each release: the place where a lock's invariants are
    audited, since they hold again and nobody else can hold the lock yet. ``inside`` and ``outside``
    are the locks that may be held when this one is taken, and that may be taken while this one is
    held: the lock order.
    """

    __slots__ = ("acquire_op", "inside", "outside", "release_event", "release_op")

    def __init__(
        self,
        name: str,
        index: int,
        *,
        release_event: EventSpec = None,
        inside: tuple[Lock, ...] = (),
        outside: tuple[Lock, ...] = (),
    ) -> None:
        super().__init__(name, 0, index, marked=True, observable=False, format=self._format)
        self.inside = inside
        self.outside = outside
        self.release_event = release_event
        self.acquire_op = ops.Acquire(self)
        self.release_op = ops.Release(self, release_event)

    def holders(self, value: int) -> tuple[int, ...]:
        """The tasks that have the lock when this is its value."""
        return (value - 1,) if value else ()

    def acquire(self) -> Trap[None]:
        """Take the lock; disabled while anyone holds it."""
        return ops.trap(self.acquire_op)

    def release(self, *, event: EventSpec = None) -> Trap[None]:
        """Give the lock back. Errors: releasing a lock that the task does not hold."""
        return ops.trap(self.release_op if event is None else ops.Release(self, event))

    async def __aenter__(self) -> None:
        await ops.trap(self.acquire_op)

    async def __aexit__(self, *exc: object) -> None:
        # Nothing is released on the way out of a dying task: nobody would see the op take effect.
        if exc[0] is None:
            await ops.trap(self.release_op)

    def _format(self, value: int) -> str:
        held = "held by task" if value > 0 else "shared by task"
        return " and ".join([f"{held} {task}" for task in self.holders(value)]) or "free"


class CellArray(Generic[K, V]):
    """A sparse family of cells, each made at first touch.

    Its cells take their initial value from ``content``, else ``default``; their names come from
    ``label(key)``, which must be distinct for distinct keys.
    """

    __slots__ = ("_make", "cells", "content", "default", "label", "name", "sorted_keys")

    def __init__(
        self,
        name: str,
        make: Callable[[str, V], Cell[V]],
        default: V,
        *,
        label: Callable[[K], str],
        content: Mapping[K, V] | None = None,
    ) -> None:
        self.name = name
        self.default = default
        self.label = label
        self.content = dict(content or {})
        self.cells: dict[K, Cell[V]] = {}
        self.sorted_keys: list[K] = []
        self._make = make

    def __repr__(self) -> str:
        return f"<cells {self.name}>"

    def __getitem__(self, key: K) -> Cell[V]:
        cell = self.cells.get(key)
        if cell is None:
            cell = self._make(self.label(key), self.content.get(key, self.default))
            cell.array = cell.place = self
            cell.key = key
            self.cells[key] = cell
        return cell

    def touched(self) -> Iterator[tuple[K, Cell[V]]]:
        """The cells that may differ from the default, by key: all with content, and those made."""
        for key in [key for key in self.content if key not in self.cells]:
            self[key]
        if len(self.sorted_keys) != len(self.cells):
            self.sorted_keys = sorted(self.cells)  # type: ignore[type-var]
        for key in self.sorted_keys:
            yield key, self.cells[key]
