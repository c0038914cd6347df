"""The learned tables of all tasks: from a local state and the contents of its cells to edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from vmm.engine.automaton import Automaton, Edge, Values
from vmm.engine.monitor import Change as CellChange
from vmm.search.columns import Change, Columns

if TYPE_CHECKING:
    from vmm.engine.ops import Op
    from vmm.engine.world import World


class Taken(NamedTuple):
    """An edge as its task learned it: from which local state, and from which contents.

    ``following`` is the number of the local state after it, ``changes`` what it does to a row.
    """

    task: int
    local: int
    edge: Edge
    before: dict[int, int]
    following: int
    changes: tuple[Change, ...]

    def cell_changes(self, world: World, values: Values) -> tuple[CellChange, ...]:
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
        self, world: World, automata: Sequence[Automaton], values: Values, columns: Columns
    ) -> None:
        self.automata = automata
        self.taken: list[Taken] = []
        self._world = world
        self._values = values
        self._columns = columns
        self._known: dict[tuple[int, int, tuple[int, ...]], range] = {}
        self._met = [1] * len(automata)
        for task in range(len(automata)):
            self._meet(task)

    def op(self, task: int, number: int) -> Op | None:
        """What a task waits to do in the local state of that number."""
        return self.automata[task].ops[number - 1] if number else None

    def cells(self, task: int, number: int) -> tuple[int, ...]:
        """The cells that decide what comes of that."""
        return self.automata[task].cells[number - 1]

    def follow(self, row: list[int], edges: Sequence[int]) -> list[tuple[int, Op]]:
        """Move the tasks of a row along a path of edges; gives who did what."""
        done = []
        for edge in edges:
            task = self.taken[edge].task
            op = self.op(task, row[task])
            assert op is not None, "a finished task cannot step"
            done.append((task, op))
            row[task] = self.taken[edge].following
        return done

    def content(self, row: Sequence[int], cell: int) -> int:
        """The value id of a cell in a row, which may lack its column."""
        column = self._columns.of.get(cell)
        if column is None:
            return self.initial(cell)
        content = self._columns.content_in(row, column)
        assert isinstance(content, int)
        return content

    def initial(self, cell: int) -> int:
        """The value id of a cell that nobody has written."""
        made = self._world.cells[cell]
        return self._values.intern(made.initial, f"cell {made.name}")

    def edges(self, task: int, row: Sequence[int]) -> range:
        """The edges that a task, which has not ended, can take in a row."""
        automaton, local = self.automata[task], row[task] - 1
        cells = automaton.cells[local]
        found = tuple([self.content(row, cell) for cell in cells])
        known = self._known.get((task, local, found))
        if known is None:
            first = len(self.taken)
            expanded = automaton.expand(local, found)
            self._meet(task)
            for edge in expanded:
                self._add(task, local, edge, dict(zip(cells, found, strict=True)))
            known = self._known[task, local, found] = range(first, len(self.taken))
        return known

    def _add(self, task: int, local: int, edge: Edge, before: dict[int, int]) -> None:
        columns, following = self._columns, edge.following + 1
        changes = []
        for cell, new in edge.writes:
            column = columns.column(cell, self.initial(cell))
            old = columns.number(column, before[cell])
            changes.append((column, old, columns.number(column, new)))
        if following != local + 1:
            changes.append((task, local + 1, following))
        self.taken.append(Taken(task, local, edge, before, following, tuple(changes)))

    def _meet(self, task: int) -> None:
        """Give the new local states of a task terms, and say which cells they name."""
        total = len(self.automata[task].ops) + 1
        for number in range(self._met[task], total):
            self._columns.number_local(task, number)
            self._columns.note_named(task, self.automata[task].cells[number - 1])
        self._met[task] = total
