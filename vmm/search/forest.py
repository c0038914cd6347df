"""Decision trees over the columns of state rows, looked up for many rows at once.

A tree answers a question about a state that depends on some of its columns only: each inner node
looks at one column, each leaf is an answer (a positive number) or not known yet. Trees are grown
one path at a time, by whoever can find the answer for one row, so only inputs that occur cost
anything. All trees share a few flat arrays: a lookup is one gather a level of the tree.

A tree begins at a slot, its root. A slot holds a node, or minus one minus the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vmm.search.arrays import Ints, Rows, roomier

UNKNOWN = 0
"""The answer of a tree that has to grow."""

_GAP = -1 - UNKNOWN


class Forest:
    """Many trees. ``spans[column]`` is how many values the nodes of a column have room for.

    A node looks at ``columns[node]``; its slots begin at ``bases[node]``.
    """

    def __init__(self) -> None:
        self.slots: Ints = np.full(1024, _GAP, np.intp)
        self._used = 0
        self.columns: Ints = np.zeros(256, np.intp)
        self.bases: Ints = np.zeros(256, np.intp)
        self._nodes = 0
        self.spans: list[int] = []
        self._by_column: list[list[int]] = []

    @property
    def nbytes(self) -> int:
        """Memory in use."""
        return self.slots.nbytes + self.columns.nbytes + self.bases.nbytes

    # --- growth ---

    def root(self) -> int:
        """A new tree, of which nothing is known."""
        return self._reserve(1)

    def add_column(self) -> None:
        """One more column that nodes may look at."""
        self.spans.append(2)
        self._by_column.append([])

    def make_room(self, column: int, values: int) -> None:
        """Let the nodes of a column tell ``values`` values apart."""
        old = self.spans[column]
        if values <= old:
            return
        self.spans[column] = new = max(values, 2 * old)
        nodes = np.array(self._by_column[column], np.intp)
        if nodes.size:
            first = self._reserve(new * len(nodes))
            bases = first + new * np.arange(len(nodes))
            moved = np.arange(old)
            self.slots[bases[:, None] + moved] = self.slots[self.bases[nodes][:, None] + moved]
            self.bases[nodes] = bases

    def plant(self, root: int, row: Sequence[int], columns: Sequence[int], answer: int) -> None:
        """Answer for all rows that agree with ``row`` in ``columns``, and in what was asked before.

        A row that ends early is zero in the columns beyond.
        """
        slot, asked = self._end(root, row)
        if self.slots[slot] != _GAP:  # since it was looked up, another's answer was found to hold
            assert self.slots[slot] == -1 - answer, "two answers for one row"
            return
        for column in columns:
            if column not in asked:
                asked.append(column)
                node = self._node(column)
                self.slots[slot] = node
                slot = self._slot(node, row)
        self.slots[slot] = -1 - answer

    def splice(self, root: int, column: int) -> None:
        """Let a tree that took ``column`` for always zero look at it first."""
        known = self.slots[root]
        if known != _GAP:
            node = self._node(column)
            self.slots[self.bases[node]] = known
            self.slots[root] = node

    def _end(self, root: int, row: Sequence[int]) -> tuple[int, list[int]]:
        slot, asked = root, list[int]()
        while (node := int(self.slots[slot])) >= 0:
            asked.append(int(self.columns[node]))
            slot = self._slot(node, row)
        return slot, asked

    def _slot(self, node: int, row: Sequence[int]) -> int:
        column = int(self.columns[node])
        return int(self.bases[node]) + (int(row[column]) if column < len(row) else 0)

    def _node(self, column: int) -> int:
        node = self._nodes
        self._nodes += 1
        self.columns = roomier(self.columns, self._nodes)
        self.bases = roomier(self.bases, self._nodes)
        self.columns[node] = column
        self.bases[node] = self._reserve(self.spans[column])
        self._by_column[column].append(node)
        return node

    def _reserve(self, count: int) -> int:
        first, self._used = self._used, self._used + count
        size = len(self.slots)
        self.slots = roomier(self.slots, self._used)
        self.slots[size:] = _GAP
        return first

    # --- lookup ---

    def answers(self, rows: Rows, numbers: Ints, roots: Ints, learn: Callable[[int], None]) -> Ints:
        """What the trees at ``roots`` say of the rows with those numbers.

        ``learn(position)`` must plant the answer for that item; it may add columns, but not change
        rows: they are widened here, also for columns that others have added.
        """
        rows.widen(len(self.spans))
        found = self._look(rows, numbers, roots)
        gaps = np.flatnonzero(found == UNKNOWN)
        while gaps.size:
            at = self._gaps(rows, numbers[gaps], roots[gaps])
            _, first = np.unique(at, return_index=True)
            for position in gaps[first].tolist():
                learn(position)
            rows.widen(len(self.spans))
            found[gaps] = self._look(rows, numbers[gaps], roots[gaps])
            gaps = gaps[found[gaps] == UNKNOWN]
        return found

    def _look(self, rows: Rows, numbers: Ints, roots: Ints) -> Ints:
        found = self.slots[roots]
        inner = np.flatnonzero(found >= 0)
        while inner.size:
            nodes = found[inner]
            values = rows.flat[numbers[inner] * rows.width + self.columns[nodes]]
            reached = self.slots[self.bases[nodes] + values]
            found[inner] = reached
            inner = inner[reached >= 0]
        return -1 - found

    def _gaps(self, rows: Rows, numbers: Ints, roots: Ints) -> Ints:
        """The slots at which the answers are missing."""
        at = roots.copy()
        inner = np.flatnonzero(self.slots[at] >= 0)
        while inner.size:
            nodes = self.slots[at[inner]]
            values = rows.flat[numbers[inner] * rows.width + self.columns[nodes]]
            at[inner] = self.bases[nodes] + values
            inner = inner[self.slots[at[inner]] >= 0]
        return at
