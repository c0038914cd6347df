"""Where a task can take a state, learned as a whole.

A move is a step with all that follows from it: what the monitors say, and the accesses that the
task runs through before it comes to a choice point (see ``reduction``). What a task can do in a
state depends on its local state and on what was looked at to find that out: the cells of its
pending op, what monitors read, the cells of the accesses that it ran through. So the moves of a
local state are the answers of one decision tree (see ``forest``), and for a state that is like
one that occurred before, a lookup in that tree is all there is to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmm.engine.monitor import Finding
from vmm.engine.task import TaskKind
from vmm.search.arrays import Flags, Ints, Matrix, Numbers, Rows, appended
from vmm.search.columns import Columns, Effects
from vmm.search.judge import Judge, Sight, Sorts

if TYPE_CHECKING:
    from vmm.engine.world import World
    from vmm.search.forest import Forest
    from vmm.search.tables import Tables

NONE = 1
"""The answer that a task cannot move, or has ended. Other answers are the number of a move, with
which those begin that a task can choose from."""


class _Found(NamedTuple):
    """One move: the edges taken, the changes from the first row to the last, and the findings."""

    edges: tuple[int, ...]
    changes: tuple[tuple[int, int, int], ...]
    findings: tuple[Finding, ...]


class Moves:
    """The moves of all tasks by number, and the trees that answer with them.

    ``roots``: where the trees begin, by task and local state. ``counts``: how many moves there are
    to choose from, by the first of them. ``effects``: what becomes of a row. ``through``: how many
    steps were run through. ``tasks``: whose move it is; ``optional``: whether the task is.
    ``found``: whether there are ``findings``. ``edges``: the steps.
    """

    def __init__(
        self, world: World, forest: Forest, columns: Columns, tables: Tables, judge: Judge
    ) -> None:
        kinds = [task.kind for task in world.tasks]
        self._optional = [kind is TaskKind.OPTIONAL for kind in kinds] or [False]
        self._careful = TaskKind.DAEMON in kinds or TaskKind.OPTIONAL in kinds
        self._forest = forest
        self._columns = columns
        self._tables = tables
        self._judge = judge
        self.ended = forest.root()
        forest.slots[self.ended] = -1 - NONE
        self.begin(None)

    def begin(self, sorts: Sorts | None) -> None:
        """Forget all moves: they are to be learned with those ``sorts``."""
        self._judge.sorts = sorts
        tasks = len(self._tables.automata)
        self.roots: Matrix = np.full((tasks, 64), self.ended, np.intp)
        self._known = [1] * tasks
        self._groups: dict[tuple[_Found, ...], int] = {}
        self.edges: list[tuple[int, ...]] = []
        self.findings: list[tuple[Finding, ...]] = []
        self.effects = Effects(self._columns)
        self.counts: Numbers = np.zeros(256, np.int32)
        self.through: Numbers = np.zeros(256, np.int32)
        self.tasks: Numbers = np.zeros(256, np.int32)
        self.found: Flags = np.zeros(256, np.bool_)
        self.optional: Flags = np.zeros(256, np.bool_)
        nothing = _Found((), (), ())
        self._add(0, nothing)  # an answer is never zero
        self._groups[()] = self._add(0, nothing)
        for task in range(tasks):
            self._meet(task)

    def answers(self, rows: Rows, numbers: Ints, tasks: Ints, roots: Ints) -> Ints:
        """What each task can do in the row of that number: ``NONE``, or the first of its moves."""

        def learn(position: int) -> None:
            self.learn(int(tasks[position]), rows.matrix[numbers[position]].tolist())

        return self._forest.answers(rows, numbers, roots, learn)

    # --- learning ---

    def learn(self, task: int, row: Sequence[int]) -> None:
        """Find out what a task that has not ended can do in a row, and in all that are like it."""
        cells = self._tables.cells(task, row[task])
        root = int(self.roots[task, row[task]])
        whole = Sight(self._columns, row)
        whole.look(cells)
        edges = self._tables.edges(task, row)
        group = tuple([self._move(task, edge, whole.copy()) for edge in edges])
        answer = self._groups.get(group)
        if answer is None:
            answer = self._groups[group] = len(self.edges)
            for move in group:
                self._add(task, move)
            self.counts[answer] = len(group)
        self._meet(task)
        of, (variables, arrays, tasks, strangers) = self._columns.of, whole.looked
        constants = [variable for variable in variables if variable not in of]
        self._columns.depend(root, constants, arrays, strangers)
        columns = [*tasks, *[of[variable] for variable in variables if variable in of]]
        self._forest.plant(root, row, columns, answer)

    def _move(self, task: int, edge: int, sight: Sight) -> _Found:
        """What comes of an edge in the row in sight."""
        taken, judge = self._tables.taken, self._judge
        edges = [edge]
        sight.change(taken[edge].changes)
        findings = judge.step(edge, sight)
        if not findings:
            findings, on, _ = judge.access(task, taken[edge].following, sight)
            if on:
                findings, sight = self._run_on(task, edges, sight)
        changes = [(column, *ends) for column, ends in sight.changes.items()]
        return _Found(tuple(edges), tuple([c for c in changes if c[1] != c[2]]), findings)

    def _run_on(
        self, task: int, edges: list[int], sight: Sight
    ) -> tuple[tuple[Finding, ...], Sight]:
        """Step a task on to its next choice point, which may be where a monitor objects.

        Adds the edges; gives the findings and the row there.
        """
        tables, judge = self._tables, self._judge
        mark, count, next_mark = tables.taken[edges[0]].following, 0, 1
        while True:
            sight.look(tables.cells(task, sight.row[task]))
            (edge,) = tables.edges(task, sight.row)
            following = tables.taken[edge].following
            ahead = sight.copy()
            ahead.change(tables.taken[edge].changes)
            findings, on, unsteady = judge.access(task, following, ahead)
            if unsteady or (self._careful and self._may_wait(task, following)):
                return (), sight
            edges.append(edge)
            sight = ahead
            # A task that is back where the mark is has gone round: Brent's way to find it.
            if not on or following == mark:
                return findings, sight
            count += 1
            if count == next_mark:
                mark, next_mark = following, 2 * next_mark

    def _may_wait(self, task: int, number: int) -> bool:
        """Whether a task has ended there, or may have to wait."""
        op = self._tables.op(task, number)
        return op is None or op.may_block

    def _add(self, task: int, move: _Found) -> int:
        made = self.effects.add(move.changes)
        self.edges.append(move.edges)
        self.findings.append(move.findings)
        self.counts = appended(self.counts, made, [0])
        self.through = appended(self.through, made, [len(move.edges) - 1])
        self.tasks = appended(self.tasks, made, [task])
        self.found = appended(self.found, made, [bool(move.findings)])
        self.optional = appended(self.optional, made, [self._optional[task]])
        return made

    def _meet(self, task: int) -> None:
        """Give the new local states of a task the roots of trees."""
        known, total = self._known[task], len(self._tables.automata[task].ops) + 1
        if total > self.roots.shape[1]:
            more = np.full((len(self.roots), total), self.ended, np.intp)
            self.roots = np.concatenate([self.roots, more], axis=1)
        self.roots[task, known:total] = [self._forest.root() for _ in range(known, total)]
        self._known[task] = total
