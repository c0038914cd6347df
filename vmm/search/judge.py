"""Monitors on tables: their Python code runs once for each input that differs in what it looks at.

A monitor is a pure function of its state, the step and the cells that it reads. While one runs,
what it reads is written down; what it says then holds for all states that agree there, so that it
becomes part of a learned move (see ``moves``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from vmm.engine.automaton import Values
from vmm.engine.events import AuditPoint
from vmm.engine.monitor import Audit, Finding, Step, View
from vmm.search.columns import Change, Columns, Variable

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, CellArray
    from vmm.engine.ops import Op
    from vmm.engine.oracles import Oracles, States
    from vmm.engine.task import Task
    from vmm.engine.world import World
    from vmm.search.tables import Tables


class Sorts(Protocol):
    """What wants to know, beside the monitors, what goes on; see ``reduction``."""

    def seen_by_monitors(self, view: RecordingView, task: int) -> None:
        """Monitors looked at all this when a task made a step or published an access."""

    def is_steady(self, view: RecordingView, task: int, op: Op) -> bool:
        """Whether nobody else has a say in, or is judged by, what the task published."""

    def runs_on(self, task: int, op: Op, view: View) -> bool:
        """Whether a task may go through a pending access at once."""


class Said(NamedTuple):
    """What is said to an access that a task publishes.

    ``on``: the task may go through it at once. ``unsteady``: that rests on something that others
    may change.
    """

    findings: tuple[Finding, ...] = ()
    on: bool = False
    unsteady: bool = False


class RecordingView(View):
    """Shows one row, and keeps what was looked at.

    ``met`` are the tasks that may have an access to one of the ``shown`` cells pending;
    ``strangers`` are (task, cell) of which that is not so, as far as is known.
    """

    __slots__ = ("_columns", "arrays", "cells", "met", "shown", "strangers")

    def __init__(
        self,
        get: Callable[[int], Any],
        tasks: Sequence[Task],
        pending: Callable[[], Sequence[Op | None]],
        columns: Columns,
    ) -> None:
        self.cells: dict[int, None] = {}
        self.arrays: dict[CellArray[Any, Any], None] = {}
        self.met: dict[int, None] = {}
        self.shown: dict[Cell[Any], None] = {}
        self.strangers: dict[tuple[int, int], None] = {}
        self._columns = columns

        def noted(cell: int) -> Any:
            self.cells[cell] = None
            return get(cell)

        super().__init__(noted, tasks, pending)

    def accesses(self, cell: Cell[Any], *, but: Task) -> tuple[tuple[Task, Op], ...]:
        for task in range(len(self._tasks)):
            if task == but.index:
                continue
            if self._columns.names(task, cell.index):
                self.met[task] = self.shown[cell] = None
            else:
                self.strangers[task, cell.index] = None
        return super().accesses(cell, but=but)

    def items(self, array: CellArray[Any, Any]) -> Iterator[tuple[Any, Any]]:
        self.arrays[array] = None
        return super().items(array)


class Looked(NamedTuple):
    """What was looked at: variables, all of some arrays, the local states of tasks.

    And, as ``strangers``, the cells that tasks do not name.
    """

    variables: dict[Variable, None]
    arrays: dict[CellArray[Any, Any], None]
    tasks: dict[int, None]
    strangers: dict[tuple[int, int], None]


class Sight:
    """A row that changes while a task goes on, and what of it was looked at as it was at first."""

    def __init__(self, columns: Columns, row: Sequence[int]) -> None:
        self.row = list(row)
        self.changes: dict[int, tuple[int, int]] = {}
        """By column: the number at first, and the one now."""
        self.looked = Looked({}, {}, {}, {})
        self._columns = columns

    def look(self, variables: Iterable[Variable]) -> None:
        """Note that this was looked at; what has been changed since tells nothing of before."""
        of, changes = self._columns.of, self.changes
        fresh = [variable for variable in variables if of.get(variable) not in changes]
        self.looked.variables.update(dict.fromkeys(fresh))

    def look_as(self, view: RecordingView) -> None:
        """Note all that was looked at through a view of the row."""
        self.look(view.cells)
        self.looked.arrays.update(view.arrays)
        self.looked.tasks.update(view.met)
        self.looked.strangers.update(view.strangers)

    def change(self, changes: Iterable[Change]) -> None:
        """Let something happen to the row."""
        for column, old, new in changes:
            first, _ = self.changes.get(column, (old, new))
            self.changes[column] = first, new
            self.row += [0] * (column + 1 - len(self.row))
            self.row[column] = new

    def copy(self) -> Sight:
        """The same row, to go on changing; what is looked at there is noted here as well."""
        made = Sight(self._columns, self.row)
        made.changes, made.looked = dict(self.changes), self.looked
        return made


class Judge:
    """Verdicts on steps and on pending accesses. ``sorts`` is asked as well, if it is there."""

    sorts: Sorts | None = None

    def __init__(
        self,
        world: World,
        oracles: Oracles | None,
        values: Values,
        columns: Columns,
        tables: Tables,
    ) -> None:
        self._world = world
        self._oracles = oracles
        self._values = values
        self._columns = columns
        self._tables = tables
        self._initial: States = () if oracles is None else oracles.initial()

    def view(self, row: Sequence[int]) -> View:
        """What monitors see of the state in a row."""
        return View(
            lambda cell: self._value(row, cell), self._world.tasks, lambda: self._pending_in(row)
        )

    def first_access(self, task: int, number: int, row: Sequence[int]) -> tuple[Finding, ...]:
        """What is said to the access that a task publishes before the first step."""
        return self.access(task, number, Sight(self._columns, row)).findings

    def access(self, task: int, number: int, sight: Sight) -> Said:
        """What is said to the access that a task has pending in the local state of that number."""
        op = self._tables.op(task, number)
        watched = self._oracles is not None and bool(self._oracles.on_pending)
        if op is None or not (watched or self.sorts is not None):
            return Said()
        view, said = self._recording(sight), Said()
        if self._oracles is not None:
            said = Said(tuple(self._oracles.pending(self._world.tasks[task], op, view)))
        if self.sorts is not None:
            self.sorts.seen_by_monitors(view, task)
            unsteady = not self.sorts.is_steady(view, task, op)
            on = self.sorts.runs_on(task, op, view) and not said.findings
            said = Said(said.findings, on, unsteady)
        sight.look_as(view)
        return said

    def step(self, edge: int, sight: Sight) -> tuple[Finding, ...]:
        """What is said to a step that led to the row in sight; moves the monitors' states there."""
        taken = self._tables.taken[edge]
        if self._oracles is None or not taken.edge.events:
            return ()
        op = self._tables.op(taken.task, taken.local + 1)
        assert op is not None, "a finished task cannot step"
        changes = taken.cell_changes(self._world, self._values)
        step = Step(
            self._world.tasks[taken.task], op, taken.edge.result, changes, taken.edge.events
        )
        asked = self._asked(step)
        states = list(self._initial)
        for number in asked:
            column = self._columns.of.get(-1 - number)
            if column is not None:
                states[number] = self._columns.content_in(sight.row, column)
        view = self._recording(sight)
        after, found = self._oracles.step(tuple(states), step, view)
        if self.sorts is not None:
            self.sorts.seen_by_monitors(view, taken.task)
        sight.look([-1 - number for number in asked])
        sight.look_as(view)
        if not found:
            sight.change(self._moved(asked, states, after))
        return tuple(found)

    def _asked(self, step: Step) -> list[int]:
        """The monitors whose states a step may read or change."""
        assert self._oracles is not None
        audited = any(isinstance(event, AuditPoint) for event in step.events)
        return [
            number
            for number, monitor in enumerate(self._oracles.monitors)
            if (audited and isinstance(monitor, Audit))
            or any(isinstance(event, monitor.events) for event in step.events)
        ]

    def _moved(
        self, asked: Sequence[int], before: Sequence[Hashable], after: Sequence[Hashable]
    ) -> tuple[Change, ...]:
        columns, changes = self._columns, []
        for number in asked:
            if after[number] != before[number]:
                column = columns.column(-1 - number, self._initial[number])
                old = columns.number(column, before[number])
                changes.append((column, old, columns.number(column, after[number])))
        return tuple(changes)

    def _recording(self, sight: Sight) -> RecordingView:
        return RecordingView(
            lambda cell: self._value(sight.row, cell),
            self._world.tasks,
            lambda: self._pending_in(sight.row),
            self._columns,
        )

    def _pending_in(self, row: Sequence[int]) -> list[Op | None]:
        return [self._tables.op(task, row[task]) for task in range(len(self._world.tasks))]

    def _value(self, row: Sequence[int], cell: int) -> Any:
        return self._values.value(self._tables.content(row, cell))
