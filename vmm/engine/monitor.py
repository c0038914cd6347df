"""Monitors: the oracles that judge a run or a search.

A monitor is an automaton: a pure function of (its state, a step, the values of the cells it reads)
that gives its next state and the findings. So the same oracle works live, in sampling and in
exhaustive search. It sees a step only if that step carries an event that it names, or publishes a
pending access (``sees_pending``, ``sees_access``), or leaves the world stuck (``sees_stuck``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec

from vmm.engine.events import Event

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, CellArray
    from vmm.engine.ops import Op
    from vmm.engine.task import Task
    from vmm.engine.world import World

V = TypeVar("V", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Finding:
    """A violated rule. ``code`` is ``monitor/what``; ``cells`` are the ones that show it."""

    code: str
    message: str
    rule: str
    source: str
    cells: tuple[str, ...] = ()


def _nothing() -> Sequence[Op | None]:
    return ()


class View:
    """Read access to a state, for monitors: ``view[cell]``, ``values``, ``items``, ``accesses``.

    ``pending`` gives what each of ``tasks`` is about to do.
    """

    __slots__ = ("_get", "_pending", "_tasks")

    def __init__(
        self,
        get: Callable[[int], Any],
        tasks: Sequence[Task] = (),
        pending: Callable[[], Sequence[Op | None]] = _nothing,
    ) -> None:
        self._get = get
        self._tasks = tasks
        self._pending = pending

    def __getitem__(self, cell: Cell[V]) -> V:
        value: V = self._get(cell.index)
        return value

    def values(self, cells: Iterable[Cell[V]]) -> list[V]:
        """The values of many cells."""
        get = self._get
        return [get(cell.index) for cell in cells]

    def items(self, array: CellArray[Any, V]) -> Iterator[tuple[Any, V]]:
        """(key, value) of the cells that differ from the array's default, by key."""
        default = array.default
        for key, cell in array.touched():
            value = self._get(cell.index)
            if value != default:
                yield key, value

    def accesses(self, cell: Cell[Any], *, but: Task) -> tuple[tuple[Task, Op], ...]:
        """The ops that name ``cell`` and that other tasks than ``but`` have pending, by task."""
        return tuple(
            [
                (task, op)
                for task, op in zip(self._tasks, self._pending(), strict=True)
                if task.index != but.index and op is not None and cell in op.cells
            ]
        )


class Change(msgspec.Struct, frozen=True, gc=False):
    """A cell that a step wrote, with the old and the new value."""

    cell: Cell[Any]
    old: Any
    new: Any


class Step(msgspec.Struct, frozen=True, gc=False):
    """One op taking effect. ``events`` are already resolved against the result."""

    task: Task
    op: Op
    result: Any
    changes: tuple[Change, ...]
    events: tuple[Event, ...]


Verdict = tuple[Any, tuple[Finding, ...]]


class Monitor:
    """Base of all monitors. A subclass sets ``name`` and ``events`` and writes ``on_event``.

    ``counts`` marks a monitor whose state never repeats, such as an exit counter: it is left out
    of searches. ``initial`` gives the state to start with.
    """

    name: ClassVar[str]
    events: ClassVar[tuple[type[Event], ...]] = ()
    sees_pending: ClassVar[bool] = False
    sees_stuck: ClassVar[bool] = False
    counts: ClassVar[bool] = False

    def initial(self) -> Any:
        """The state before the first step; hashable unless ``counts``."""
        return None

    def summary(self, state: Any) -> Mapping[str, int]:
        """What a monitor that counts has counted, by name."""
        del state
        return {}

    def on_event(self, state: Any, event: Event, step: Step, view: View) -> Verdict:
        """Judge a step that carries one of ``events``."""
        raise NotImplementedError

    def sees_access(self, cell: Cell[Any]) -> bool:
        """Whether pending accesses to a cell concern it: the same for all cells of an array."""
        del cell
        return self.sees_pending

    def on_pending(self, task: Task, op: Op, view: View) -> tuple[Finding, ...]:
        """Judge an access that a task has published. ``view`` gives the state it waits in."""
        raise NotImplementedError

    def on_stuck(
        self, world: World, pending: tuple[Op | None, ...], view: View
    ) -> tuple[Finding, ...]:
        """Judge a state that is not quiet and in which nothing can move."""
        raise NotImplementedError


class Audit(Monitor):
    """A monitor that judges a state, at audit points.

    ``full`` looks at everything. ``incremental`` looks at the cells written since the last audit
    that found nothing; long live runs use it, and hold it against ``full`` at checkpoints.
    """

    def watched(self) -> tuple[Cell[Any] | CellArray[Any, Any], ...]:
        """The cells whose writes ``incremental`` wants to hear of."""
        raise NotImplementedError

    def full(self, state: Any, view: View) -> tuple[Finding, ...]:
        """Judge the whole state."""
        raise NotImplementedError

    def incremental(
        self, state: Any, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        """Judge what the written cells can have broken."""
        raise NotImplementedError
