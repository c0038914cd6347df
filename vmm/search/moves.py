"""The ways on that are found while one chunk of states is expanded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vmm.search.arrays import Flags, Hashes, Ints, Matrix, Rows


class TaskMoves(NamedTuple):
    """Edges of a task, the rows in which it takes them, and the verdicts on that."""

    task: int
    sources: Ints
    edges: Ints
    verdicts: Ints


class Ran(NamedTuple):
    """What came of running on: positions among the moves, where they led, what the hash gained.

    ``edges`` are those that were run through; of one move, in their order.
    """

    positions: Ints
    rows: Rows
    gained: Hashes
    edges: Ints


class Found:
    """Ways on that were found in one chunk: of which row, by which edge, with which verdict."""

    def __init__(self) -> None:
        self.sources: list[Ints] = []
        self.edges: list[Ints] = []
        self.verdicts: list[Ints] = []
        self.binding: list[Flags] = []
        self.runs: list[Ran] = []
        self.count = 0

    def add(self, sources: Ints, edges: Ints, verdicts: Ints, *, optional: bool) -> None:
        """Some moves of one task."""
        self.sources.append(sources)
        self.edges.append(edges)
        self.verdicts.append(verdicts)
        self.binding.append(np.full(len(edges), not optional))
        self.count += len(edges)

    def add_run(self, ran: Ran) -> None:
        """Where some of the moves that are added next lead after all."""
        self.runs.append(ran._replace(positions=self.count + ran.positions))

    def joined(self) -> tuple[Ints, Ints, Ints, Flags]:
        """All of them."""
        none = [np.empty(0, np.intp)]
        return (
            np.concatenate(self.sources or none),
            np.concatenate(self.edges or none),
            np.concatenate(self.verdicts or none),
            np.concatenate(self.binding or [np.empty(0, np.bool_)]),
        )

    def put_runs(self, new: Matrix, made: Ints) -> None:
        """Where a task ran on, the new row is the one that it came to; ``made`` are moves."""
        for ran in self.runs:
            place = np.searchsorted(ran.positions, made)
            place[place == len(ran.positions)] = 0
            ran_on = np.flatnonzero(ran.positions[place] == made)
            rows = ran.rows.matrix[place[ran_on]]
            new[ran_on, : rows.shape[1]] = rows
