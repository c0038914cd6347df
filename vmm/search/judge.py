"""Monitors on tables: their Python code runs once for each input that differs in what it looks at.

A monitor is a pure function of its state, the step and the cells that it reads. While one runs,
what it reads is written down; the verdict then holds for all states that agree there. So a verdict
is a path of a decision tree (see ``forest``) that begins at the edge or the pending op.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from vmm.engine.automaton import Values
from vmm.engine.events import AuditPoint
from vmm.engine.monitor import Audit, Finding, Step, View
from vmm.search.arrays import Flags, Ints, Rows, appended, roomier, smallest_type
from vmm.search.columns import Change, Columns, Effects, Variable
from vmm.search.forest import Forest

if TYPE_CHECKING:
    from vmm.engine.cells import Cell, CellArray
    from vmm.engine.ops import Op
    from vmm.engine.oracles import Oracles, States
    from vmm.engine.task import Task
    from vmm.engine.world import World
    from vmm.search.tables import Tables, Taken

NOTHING = 1
"""The verdict that nothing is to be said and no monitor's state changes."""


class Sorts(Protocol):
    """What wants to know, beside the monitors, what goes on; see ``reduction``."""

    def seen_by_monitors(self, view: RecordingView, task: int) -> None:
        """Monitors looked at all this when a task made a step or published an access."""

    def is_steady(self, view: RecordingView, task: int, op: Op) -> bool:
        """Whether nobody else has a say in, or is judged by, what the task published."""

    def runs_on(self, task: int, op: Op, view: View) -> bool:
        """Whether a task may go through a pending access at once."""


class Said(NamedTuple):
    """What is said to some edges.

    ``on``: the task may then go through the access that it publishes. ``unsteady``: the verdict on
    that access rests on something that others may change.
    """

    verdicts: Ints
    on: Flags
    unsteady: Flags


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


class Judge:
    """Verdicts on steps and on pending accesses, for many of them at once.

    A verdict is a number; ``effects`` says what it does to the monitors' columns, ``findings``
    what was found, ``found`` whether that is anything. ``runs`` and ``unsteady``: see ``Said``.
    """

    def __init__(
        self,
        world: World,
        oracles: Oracles | None,
        values: Values,
        columns: Columns,
        forest: Forest,
        tables: Tables,
    ) -> None:
        self._sorts: Sorts | None = None
        self.effects = Effects(columns)
        self.findings: list[tuple[Finding, ...]] = []
        self.found: Flags = np.zeros(64, np.bool_)
        self.runs: Flags = np.zeros(64, np.bool_)
        self.unsteady: Flags = np.zeros(64, np.bool_)
        self._world = world
        self._oracles = oracles
        self._values = values
        self._columns = columns
        self._forest = forest
        self._tables = tables
        self._initial: States = () if oracles is None else oracles.initial()
        self._edges = _Roots(forest)
        self._known: dict[tuple[object, ...], int] = {}
        self._verdict((), ())  # UNKNOWN has a number, too
        self._known.clear()
        assert self._verdict((), ()) == NOTHING
        self.begin(None)

    def begin(self, sorts: Sorts | None) -> None:
        """Judge pending accesses anew, with or without ``sorts``."""
        self._sorts = sorts
        self._pending = [_Roots(self._forest) for _ in self._tables.automata]
        for roots in self._pending:
            self._forest.slots[roots.of(np.zeros(1, np.intp))] = -1 - NOTHING

    def verdicts(self, task: int, rows: Rows, sources: Ints, edges: Ints) -> Said:
        """What the monitors say to the edges of a task taken in some rows."""
        said = np.full(len(edges), NOTHING, np.intp)
        on, unsteady = np.zeros((2, len(edges)), np.bool_)
        if not edges.size:
            return Said(said, on, unsteady)
        at = np.flatnonzero(self._tables.eventful[edges])
        if at.size and self._oracles is not None:
            said[at] = self._steps(rows, sources[at], edges[at])
        if self._judges_accesses:
            following = self._tables.following[edges]
            roots = self._pending[task].of(following)
            at = np.flatnonzero((self._forest.slots[roots] != -1 - NOTHING) & ~self.found[said])
            if at.size:
                judged = self._accesses(
                    task, self.after(rows, sources[at], edges[at]), following[at], roots[at]
                )
                bad = self.found[judged]
                said[at[bad]] = judged[bad]
                on[at] = self.runs[judged]
                unsteady[at] = self.unsteady[judged]
        return Said(said, on, unsteady)

    def roots(self, edges: Ints) -> tuple[Ints, Ints]:
        """Where the trees begin on the steps by these edges, and on what is pending after them.

        -1 is where no monitor has anything to say.
        """
        steps = np.full(len(edges), -1, np.intp)
        accesses = steps.copy()
        if self._oracles is not None:
            at = np.flatnonzero(self._tables.eventful[edges])
            steps[at] = self._edges.of(edges[at])
        if self._judges_accesses:
            tasks = self._tables.tasks[edges]
            for task, pending in enumerate(self._pending):
                at = np.flatnonzero(tasks == task)
                accesses[at] = pending.of(self._tables.following[edges[at]])
        return steps, accesses

    def first_access(self, task: int, number: int, row: Sequence[int]) -> tuple[Finding, ...]:
        """What is said to the access that a task publishes before the first step."""
        op = self._tables.op(task, number)
        return () if op is None else self._judge_access(task, op, self.recording(row))[0]

    @property
    def _judges_accesses(self) -> bool:
        watched = self._oracles is not None and bool(self._oracles.on_pending)
        return watched or self._sorts is not None

    def view(self, row: Sequence[int]) -> View:
        """What monitors see of the state in a row."""
        return View(
            lambda cell: self._value(row, cell), self._world.tasks, lambda: self._pending_in(row)
        )

    # --- many at once ---

    def after(self, rows: Rows, sources: Ints, edges: Ints, verdicts: Ints | None = None) -> Rows:
        """The rows behind the edges; without ``verdicts``, with the monitors' states of before."""
        after = self.fitting(Rows(rows.matrix[sources], self._columns.width))
        self._tables.effects.apply(edges, after.matrix)
        if verdicts is not None:
            self.effects.apply(verdicts, after.matrix)
        return after

    def fitting(self, rows: Rows) -> Rows:
        """The rows with room for all columns and all numbers."""
        kind = smallest_type(self._columns.largest)
        return Rows(rows.matrix.astype(kind, copy=False), self._columns.width)

    def recording(self, row: Sequence[int]) -> RecordingView:
        """The same, shown by a view that keeps what was looked at."""
        return RecordingView(
            lambda cell: self._value(row, cell),
            self._world.tasks,
            lambda: self._pending_in(row),
            self._columns,
        )

    def _steps(self, rows: Rows, sources: Ints, edges: Ints) -> Ints:
        after = self.after(rows, sources, edges)
        roots = self._edges.of(edges)

        def learn(position: int) -> None:
            row = after.matrix[position].tolist()
            self._learn_step(int(roots[position]), self._tables.taken[edges[position]], row)

        return self._forest.answers(after, np.arange(len(after)), roots, learn)

    def _accesses(self, task: int, after: Rows, following: Ints, roots: Ints) -> Ints:
        def learn(position: int) -> None:
            row = after.matrix[position].tolist()
            op = self._tables.op(task, int(following[position]))
            assert op is not None, "nothing is pending of a task that has ended"
            view = self.recording(row)
            verdict = self._verdict((), *self._judge_access(task, op, view))
            self._plant(int(roots[position]), row, view, (), verdict)

        return self._forest.answers(after, np.arange(len(after)), roots, learn)

    def _judge_access(
        self, task: int, op: Op, view: RecordingView
    ) -> tuple[tuple[Finding, ...], bool, bool]:
        """What is found, whether the task may go through the access, whether others have a say."""
        found: tuple[Finding, ...] = ()
        if self._oracles is not None:
            found = tuple(self._oracles.pending(self._world.tasks[task], op, view))
        if self._sorts is None:
            return found, False, False
        self._sorts.seen_by_monitors(view, task)
        unsteady = not self._sorts.is_steady(view, task, op)
        return found, self._sorts.runs_on(task, op, view) and not found, unsteady

    # --- one of them ---

    def _learn_step(self, root: int, taken: Taken, row: Sequence[int]) -> None:
        assert self._oracles is not None
        op = self._tables.automata[taken.task].ops[taken.local]
        edge = taken.edge
        changes = taken.changes(self._world, self._values)
        step = Step(self._world.tasks[taken.task], op, edge.result, changes, edge.events)
        asked = self._asked(step)
        states = list(self._initial)
        for number in asked:
            column = self._columns.of.get(-1 - number)
            if column is not None:
                states[number] = self._columns.content_in(row, column)
        view = self.recording(row)
        after, found = self._oracles.step(tuple(states), step, view)
        if self._sorts is not None:
            self._sorts.seen_by_monitors(view, taken.task)
        moved = () if found else self._moved(asked, states, after)
        asked_variables = [-1 - number for number in asked]
        self._plant(root, row, view, asked_variables, self._verdict(moved, found))

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

    def _plant(
        self,
        root: int,
        row: Sequence[int],
        view: RecordingView,
        asked: Sequence[Variable],
        verdict: int,
    ) -> None:
        of = self._columns.of
        variables = [*asked, *view.cells]
        constants = [v for v in variables if v not in of]
        self._columns.depend(root, constants, view.arrays, view.strangers)
        columns = [*view.met, *[of[v] for v in variables if v in of]]
        self._forest.plant(root, row, columns, verdict)

    def _verdict(
        self,
        changes: tuple[Change, ...],
        found: tuple[Finding, ...],
        on: bool = False,
        unsteady: bool = False,
    ) -> int:
        key = changes, found, on, unsteady
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self.effects.add(changes)
            self.findings.append(found)
            self.found = appended(self.found, known, [bool(found)])
            self.runs = appended(self.runs, known, [on])
            self.unsteady = appended(self.unsteady, known, [unsteady])
        return known

    def _pending_in(self, row: Sequence[int]) -> list[Op | None]:
        return [self._tables.op(task, row[task]) for task in range(len(self._world.tasks))]

    def _value(self, row: Sequence[int], cell: int) -> Any:
        column = self._columns.of.get(cell)
        if column is None:
            return self._values.value(self._tables.initial(cell))
        content = self._columns.content_in(row, column)
        assert isinstance(content, int)
        return self._values.value(content)


class _Roots:
    """A tree for each of some numbers, begun when it is first asked for."""

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._slots: Ints = np.zeros(64, np.intp)

    def of(self, numbers: Ints) -> Ints:
        """The roots of the trees of those numbers."""
        self._slots = roomier(self._slots, int(numbers.max(initial=0)) + 1)
        found = self._slots[numbers]
        for number in np.unique(numbers[found == 0]).tolist():
            self._slots[number] = self._forest.root()
        return self._slots[numbers]
