"""What stands in the row of a state: small numbers, only for what changes somewhere.

The first columns hold the local states of the tasks. A cell, or the state of a monitor, gets a
column when some step first changes it; until then it has its initial value in all states. Each
column numbers its own values: 0 is the initial one, so that a new column is all zero.

Each value of a column has a random 64-bit term, and the hash of a row is the sum of its terms. The
term of number 0 is 0, so a new column changes no hash. Two rows that differ somewhere have the same
hash with probability 2^-64: their difference has a uniformly random term in it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from vmm.search.arrays import Hashes, Ints, Matrix, appended, roomier

if TYPE_CHECKING:
    from vmm.engine.cells import CellArray
    from vmm.engine.world import World
    from vmm.search.forest import Forest

MASK = (1 << 64) - 1

Variable = int
"""A cell by its index, or the state of a monitor as ``-1 - its number``."""

Change = tuple[int, int, int]
"""Column, number before, number after."""


class _Column:
    """The contents of one column, by number, and their terms."""

    __slots__ = ("contents", "numbers", "terms")

    def __init__(self, initial: Hashable) -> None:
        self.contents: list[Hashable] = [initial]
        self.numbers: dict[Hashable, int] = {initial: 0}
        self.terms = [0]


class Columns:
    """The columns after those of the tasks, made as they are needed.

    Trees that took a variable for constant say so with ``depend``; when it gets a column they are
    made to look at it.
    """

    def __init__(self, world: World, tasks: int, forest: Forest, seed: int) -> None:
        self.of: dict[Variable, int] = {}
        self.largest = 0
        """The largest number in any column, for the width of what holds it."""
        self._world = world
        self._forest = forest
        self._random = Random(seed)
        self._columns: list[_Column] = []
        self._dependents: dict[Variable, dict[int, None]] = {}
        self._array_dependents: dict[CellArray[object, Hashable], dict[int, None]] = {}
        self.surprised = False
        """A task named a cell of which some tree took that for impossible."""
        self._named: list[dict[int, None]] = [{} for _ in range(tasks)]
        self._strangers: dict[tuple[int, int], dict[int, None]] = {}
        for _ in range(tasks):
            self._add(_Column(None))

    @property
    def width(self) -> int:
        """How many there are."""
        return len(self._columns)

    def _add(self, column: _Column) -> None:
        self._columns.append(column)
        self._forest.add_column()

    # --- numbers ---

    def column(self, variable: Variable, initial: Hashable) -> int:
        """The column of ``variable``, made if need be; ``initial`` is its initial content."""
        found = self.of.get(variable)
        if found is None:
            found = self.of[variable] = len(self._columns)
            self._add(_Column(initial))
            for root in self._all_dependents(variable):
                self._forest.splice(root, found)
        return found

    def number(self, column: int, content: Hashable) -> int:
        """The number of a content in its column."""
        made = self._columns[column]
        found = made.numbers.get(content)
        if found is None:
            found = made.numbers[content] = len(made.contents)
            made.contents.append(content)
            self._reach(column, found)
        return found

    def content(self, column: int, number: int) -> Hashable:
        """The content that a number stands for."""
        return self._columns[column].contents[number]

    def content_in(self, row: Sequence[int], column: int) -> Hashable:
        """What a row holds in a column, which the row may lack."""
        number = int(row[column]) if column < len(row) else 0
        return self._columns[column].contents[number]

    def number_local(self, task: int, number: int) -> None:
        """Give a local state's number a term."""
        if number >= len(self._columns[task].terms):
            self._reach(task, number)

    def _reach(self, column: int, number: int) -> None:
        terms = self._columns[column].terms
        while len(terms) <= number:
            terms.append(self._random.getrandbits(64))
        self._forest.make_room(column, number + 1)
        self.largest = max(self.largest, number)

    def delta(self, changes: Iterable[Change]) -> int:
        """What the changes add to the hash of a row."""
        total = 0
        for column, before, after in changes:
            terms = self._columns[column].terms
            total += terms[after] - terms[before]
        return total & MASK

    # --- which task may have an access to which cell pending ---

    def names(self, task: int, cell: int) -> bool:
        """Whether some op that was learned of the task names the cell."""
        return cell in self._named[task]

    def note_named(self, task: int, cells: Iterable[int]) -> None:
        """An op of the task names these cells: trees that took that for impossible look now."""
        for cell in cells:
            self._named[task][cell] = None
            for root in self._strangers.pop((task, cell), ()):
                self._forest.splice(root, task)
                self.surprised = True

    # --- trees that take something for constant ---

    def depend(
        self,
        root: int,
        constants: Iterable[Variable],
        arrays: Iterable[CellArray[object, Hashable]] = (),
        strangers: Iterable[tuple[int, int]] = (),
    ) -> None:
        """The tree at ``root`` takes these for initial, and all cells of the arrays.

        It takes it that the tasks of ``strangers`` never name the cell beside them.
        """
        for pair in strangers:
            self._strangers.setdefault(pair, {})[root] = None
        for variable in constants:
            self._dependents.setdefault(variable, {})[root] = None
        for array in arrays:
            self._array_dependents.setdefault(array, {})[root] = None

    def _all_dependents(self, variable: Variable) -> dict[int, None]:
        roots = self._dependents.pop(variable, {})
        array = self._world.cells[variable].array if variable >= 0 else None
        if array is not None:
            roots |= self._array_dependents.get(array, {})
        return roots


class Effects:
    """What happens to a row, by number: the cells that change and what the hash gains.

    The changes of one are ``lengths`` of them from ``first`` on: ``numbers`` go into ``columns``.
    """

    def __init__(self, columns: Columns) -> None:
        self._of = columns
        self.count = 0
        self.deltas: Hashes = np.zeros(256, np.uint64)
        self.first: Ints = np.zeros(256, np.intp)
        self.lengths: Ints = np.zeros(256, np.intp)
        self.columns: Ints = np.zeros(256, np.intp)
        self.numbers: Ints = np.zeros(256, np.intp)
        self._used = 0

    def add(self, changes: Sequence[Change]) -> int:
        """Number an effect."""
        made, self.count = self.count, self.count + 1
        self.deltas = roomier(self.deltas, self.count)
        self.deltas[made] = self._of.delta(changes)
        self.first = appended(self.first, made, [self._used])
        self.lengths = appended(self.lengths, made, [len(changes)])
        self.columns = appended(self.columns, self._used, [c for c, _, _ in changes])
        self.numbers = appended(self.numbers, self._used, [new for _, _, new in changes])
        self._used += len(changes)
        return made

    def apply(self, effects: Ints, matrix: Matrix) -> None:
        """Let each effect happen to the row at its place."""
        lengths = self.lengths[effects]
        first = self.first[effects]
        done = 0
        at = np.flatnonzero(lengths)
        while at.size:
            changes = first[at] + done
            matrix[at, self.columns[changes]] = self.numbers[changes]
            done += 1
            at = at[lengths[at] > done]
