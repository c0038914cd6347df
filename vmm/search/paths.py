"""How each state was first reached, and which states can still reach an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vmm.search.arrays import Flags, Ints, Numbers, roomier

if TYPE_CHECKING:
    from vmm.search.compiled import Loops


class Paths:
    """For each state the one before it and the edge in between."""

    def __init__(self) -> None:
        self.count = 0
        self._parents: Numbers = np.zeros(1 << 12, np.int32)
        self._edges: Numbers = np.zeros(1 << 12, np.int32)

    @property
    def nbytes(self) -> int:
        """Memory in use."""
        return self._parents.nbytes + self._edges.nbytes

    def add(self, parents: Ints, edges: Ints) -> None:
        """The next states, in the order of their numbers."""
        first, self.count = self.count, self.count + len(parents)
        self._parents = roomier(self._parents, self.count)
        self._edges = roomier(self._edges, self.count)
        self._parents[first : self.count] = parents
        self._edges[first : self.count] = edges

    def to(self, state: int) -> list[int]:
        """The edges from the initial state, number 0, to ``state``."""
        edges = []
        while state:
            edges.append(int(self._edges[state]))
            state = int(self._parents[state])
        return edges[::-1]


class Escapes:
    """The graph without optional steps, kept to find the states from which no end is reached.

    A state that has a step to the next level escapes if all states there do. So where every state
    that is no end has one, nothing is lost, and the graph is never looked at.

    ``loops`` are compiled ones, once a search is large enough for them.
    """

    loops: Loops | None = None

    def __init__(self) -> None:
        self._ends: Flags = np.zeros(1 << 12, np.bool_)
        self._onward: Flags = np.zeros(1 << 12, np.bool_)
        self._steps: list[tuple[Numbers, Numbers]] = []
        self._steps_nbytes = 0

    @property
    def nbytes(self) -> int:
        """Memory in use."""
        return self._ends.nbytes + self._onward.nbytes + self._steps_nbytes

    def add(self, sources: Ints, targets: Ints, deeper: int) -> None:
        """All steps of some states, by number; the next level begins with number ``deeper``."""
        if sources.size:
            self._onward = roomier(self._onward, deeper)
            self._onward[sources[targets >= deeper]] = True
            made = sources.astype(np.int32), targets.astype(np.int32)
            self._steps.append(made)
            self._steps_nbytes += made[0].nbytes + made[1].nbytes

    def add_ends(self, states: Ints) -> None:
        """States from which nothing has to be reached."""
        if states.size:
            self._ends = roomier(self._ends, int(states.max()) + 1)
            self._ends[states] = True

    def first_lost(self, states: int) -> int | None:
        """The first of so many states, all expanded, from which no end can be reached."""
        free = roomier(self._ends, states)[:states].copy()
        if (free | roomier(self._onward, states)[:states]).all():
            return None
        steps, before = self._steps, -1
        if self.loops is not None:
            while sum([self.loops.spread(*step, free) for step in reversed(steps)]):
                open_ = [np.flatnonzero(~free[sources]) for sources, _ in steps]
                steps = [(s[at], t[at]) for (s, t), at in zip(steps, open_, strict=True)]
            return self._first(~free)
        # From the last steps to the first, as most lead to the next level, until nothing changes.
        while (now := int(np.count_nonzero(free))) != before:
            before = now
            left = []
            for sources, targets in reversed(steps):
                free[sources.compress(free.take(targets))] = True
                still = ~free.take(sources)
                if still.any():
                    left.append((sources.compress(still), targets.compress(still)))
            steps = left[::-1]
        return self._first(~free)

    @staticmethod
    def _first(lost: Flags) -> int | None:
        found = np.flatnonzero(lost)
        return int(found[0]) if found.size else None
