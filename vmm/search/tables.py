"""The learned tables of all tasks as flat arrays: local state and cell values to edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmm.engine.automaton import Automaton, Edge, Values
from vmm.engine.monitor import Change as CellChange
from vmm.search.arrays import Flags, Ints, Matrix, Rows, appended, roomier
from vmm.search.columns import Columns, Effects

if TYPE_CHECKING:
    from vmm.engine.ops import Op
    from vmm.engine.world import World
    from vmm.search.forest import Forest


class Taken(NamedTuple):
    """An edge as its task learned it: from which local state, and from which contents."""

    task: int
    local: int
    edge: Edge
    before: dict[int, int]

    def changes(self, world: World, values: Values) -> tuple[CellChange, ...]:
        """What it does to cells, as monitors are shown it."""
        return tuple(
            [
                CellChange(world.cells[cell], values.value(self.before[cell]), values.value(new))
                for cell, new in self.edge.writes
            ]
        )


class Tables:
    """The automata of a world, and their edges by number over all tasks.

    A local state stands in its row as its number plus one; 0 is a task that has ended.
    """

    def __init__(
        self,
        world: World,
        automata: Sequence[Automaton],
        values: Values,
        columns: Columns,
        forest: Forest,
    ) -> None:
        self.automata = automata
        self.taken: list[Taken] = []
        self.effects = Effects(columns)
        self.following: Ints = np.zeros(256, np.intp)
        self.eventful: Flags = np.zeros(256, np.bool_)
        self.tasks: Ints = np.zeros(256, np.intp)
        self._world = world
        self._values = values
        self._columns = columns
        self._forest = forest
        # The answer of a tree is a group of edges: none, one, or one for each way of a choice.
        # The trees begin at ``roots``, by task and local state.
        self.first: Ints = np.zeros(256, np.intp)
        self.counts: Ints = np.zeros(256, np.intp)
        self._groups = 1
        self.roots: Matrix = np.full((len(automata), 64), -1, np.intp)
        self.stays_able: list[Flags] = [np.zeros(64, np.bool_) for _ in automata]
        """By task and local state: whether it has not ended and waits for nothing."""
        self._known = [1] * len(automata)
        for task in range(len(automata)):
            self._meet(task)

    def op(self, task: int, number: int) -> Op | None:
        """What a task waits to do in the local state of that number."""
        return self.automata[task].ops[number - 1] if number else None

    def follow(self, row: list[int], edges: Sequence[int]) -> list[tuple[int, Op]]:
        """Move the tasks of a row along a path of edges; gives who did what."""
        done = []
        for edge in edges:
            task = self.taken[edge].task
            op = self.op(task, row[task])
            assert op is not None, "a finished task cannot step"
            done.append((task, op))
            row[task] = int(self.following[edge])
        return done

    def initial(self, cell: int) -> int:
        """The value id of a cell that nobody has written."""
        made = self._world.cells[cell]
        return self._values.intern(made.initial, f"cell {made.name}")

    def moves(self, task: int, rows: Rows, numbers: Ints) -> tuple[Ints, Ints]:
        """(row, edge) for each way on that ``task``, which has not ended, has in these rows."""
        locals_ = rows.flat[numbers * rows.width + task].astype(np.intp)
        roots = self.roots[task, locals_]

        def learn(position: int) -> None:
            self._learn(task, int(locals_[position]), int(roots[position]), rows, numbers[position])

        groups = self._forest.answers(rows, numbers, roots, learn)
        counts = self.counts[groups]
        first = self.first[groups]
        if (counts == 1).all():
            return numbers, first
        if counts.max(initial=0) <= 1:
            able = np.flatnonzero(counts)
            return numbers[able], first[able]
        branch = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(numbers, counts), np.repeat(first, counts) + branch

    # --- learning ---

    def _learn(self, task: int, number: int, root: int, rows: Rows, at: np.intp) -> None:
        automaton, local = self.automata[task], number - 1
        cells = automaton.cells[local]
        row: Sequence[int] = rows.matrix[at].tolist()
        of = self._columns.of
        found = {cell: self._content(row, cell) for cell in dict.fromkeys(cells)}
        edges = automaton.expand(local, tuple([found[cell] for cell in cells]))
        self._meet(task)
        self._groups += 1
        group = self._groups - 1
        self.first = appended(self.first, group, [len(self.taken)])
        self.counts = appended(self.counts, group, [len(edges)])
        for edge in edges:
            self._add(Taken(task, local, edge, found))
        # The edges may have given columns to some of the cells.
        self._columns.depend(root, [cell for cell in found if cell not in of])
        self._forest.plant(root, row, [of[cell] for cell in found if cell in of], group)

    def _content(self, row: Sequence[int], cell: int) -> int:
        column = self._columns.of.get(cell)
        if column is None:
            return self.initial(cell)
        content = self._columns.content_in(row, column)
        assert isinstance(content, int)
        return content

    def _add(self, taken: Taken) -> None:
        task, local, edge, before = taken
        columns, following = self._columns, edge.following + 1
        changes = []
        for cell, new in edge.writes:
            column = columns.column(cell, self.initial(cell))
            old = columns.number(column, before[cell])
            changes.append((column, old, columns.number(column, new)))
        if following != local + 1:
            changes.append((task, local + 1, following))
        made = self.effects.add(changes)
        assert made == len(self.taken), "edges and their effects share numbers"
        self.taken.append(taken)
        self.following = appended(self.following, made, [following])
        self.tasks = appended(self.tasks, made, [task])
        self.eventful = appended(self.eventful, made, [bool(edge.events)])

    def _meet(self, task: int) -> None:
        """Give the new local states of a task roots and terms."""
        known, total = self._known[task], len(self.automata[task].ops) + 1
        if total > self.roots.shape[1]:
            more = np.full((len(self.roots), total), -1, np.intp)
            self.roots = np.concatenate([self.roots, more], axis=1)
        roots = self.roots[task]
        able = self.stays_able[task] = roomier(self.stays_able[task], total)
        for number in range(known, total):
            roots[number] = self._forest.root()
            able[number] = not self.automata[task].ops[number - 1].may_block
            self._columns.number_local(task, number)
            self._columns.note_named(task, self.automata[task].cells[number - 1])
        self._known[task] = total
