"""How each state was first reached."""

from __future__ import annotations

import numpy as np

from vmm.search.arrays import Ints, Numbers, roomier


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
