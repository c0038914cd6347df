"""The exhaustive search's inner steps in numpy: a chunk of states at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmm.engine.task import TaskKind
from vmm.search.arrays import Flags, Hashes, Ints, Matrix, Rows, smallest_type
from vmm.search.moves import NONE, Moves

if TYPE_CHECKING:
    from vmm.engine.task import Task
    from vmm.search.columns import Columns


class Onward(NamedTuple):
    """Ways on from the states of a chunk: from which, by which move, to which hash.

    By state: does a foreground task run, how many ways on there are.
    """

    sources: Ints
    moves: Ints
    hashes: Hashes
    running: Flags
    counts: Ints

    def only(self, kept: Flags) -> Onward:
        """Some of the ways."""
        sources = self.sources[kept]
        counts = np.bincount(sources, minlength=len(self.counts))
        return Onward(sources, self.moves[kept], self.hashes[kept], self.running, counts)


class Plain:
    """Expands states, and builds the rows of new ones."""

    def __init__(self, tasks: Sequence[Task], moves: Moves, columns: Columns) -> None:
        self._moves = moves
        self._columns = columns

        def of_kind(*kinds: TaskKind) -> Ints:
            return np.array([task.index for task in tasks if task.kind in kinds], np.intp)

        self._foreground = of_kind(TaskKind.FOREGROUND)
        self._first = of_kind(TaskKind.FOREGROUND, TaskKind.DAEMON, TaskKind.EVENTUAL)
        self._then = of_kind(TaskKind.DAEMON, TaskKind.OPTIONAL)
        kinds = [task.kind for task in tasks]
        self._eventual = np.array([kind is TaskKind.EVENTUAL for kind in kinds], np.bool_)
        self._daemon = np.array([kind is TaskKind.DAEMON for kind in kinds], np.bool_)

    def onward(self, rows: Rows, hashes: Hashes) -> Onward:
        """All moves of some states with those hashes, in the order of the reference search.

        While a foreground task runs, a state ends a run unless some task that is not optional can
        move; after that, unless an eventual one can. The others move only if it goes on.
        """
        running: Flags = np.any(rows.matrix[:, self._foreground], axis=1)
        going = None if running.all() else running[:, None]
        asked = None if going is None else going | self._eventual[self._first]
        answers: Matrix = self._answers(rows, self._first, asked)
        moved: Flags = np.any(answers != NONE, axis=1)
        if self._then.size:
            asked = moved[:, None] & ~(running[:, None] & self._daemon[self._then])
            answers = np.concatenate([answers, self._answers(rows, self._then, asked)], axis=1)
        at = np.flatnonzero(answers != NONE)
        sources, moves = at // answers.shape[1], answers.reshape(-1)[at]
        counts = self._moves.counts[moves]
        if counts.max(initial=1) > 1:
            branch = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            sources, moves = np.repeat(sources, counts), np.repeat(moves, counts) + branch
        behind = hashes[sources] + self._moves.effects.deltas[moves]
        ways = np.bincount(sources, minlength=len(rows))
        return Onward(sources, moves, behind, running, ways)

    def _answers(self, rows: Rows, tasks: Ints, asked: Flags | None) -> Matrix:
        """By row and task: what the task can do; ``NONE`` where it is not asked."""
        count, turns = len(rows), len(tasks)
        numbers = np.repeat(np.arange(count), turns)
        roots = self._moves.roots[tasks, rows.matrix[:, tasks]]
        if asked is not None:
            roots[~asked] = self._moves.ended
        answers = self._moves.answers(rows, numbers, np.tile(tasks, count), roots.reshape(-1))
        return answers.reshape(count, turns)

    def behind(self, rows: Rows, onward: Onward, fresh: Ints) -> Matrix:
        """The rows behind the moves at ``fresh``."""
        rows.widen(self._columns.width)
        kind = smallest_type(self._columns.largest)
        new = rows.matrix[onward.sources[fresh]].astype(kind, copy=False)
        self._moves.effects.apply(onward.moves[fresh], new)
        return new
