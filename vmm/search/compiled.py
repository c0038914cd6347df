"""The inner loops of ``kernels``, compiled by numba where that is installed.

Compiling takes seconds once, and loading what was compiled takes a second in each process, so a
search changes over when it has grown large. What it finds is the same to the number of each state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from vmm.engine.task import TaskKind
from vmm.search import kernels
from vmm.search.arrays import Flags, Hashes, Ints, Matrix, Rows, roomier, smallest_type
from vmm.search.kernels import (
    ALWAYS,
    GOING,
    MOVED,
    RESTING,
    Changes,
    Moves,
    Notes,
    Onward,
    Rules,
    Trees,
    Ways,
)

if TYPE_CHECKING:
    from vmm.engine.task import Task
    from vmm.search.columns import Columns, Effects
    from vmm.search.forest import Forest
    from vmm.search.judge import Judge
    from vmm.search.reduction import Runner
    from vmm.search.tables import Tables

ROOM = 1 << 16
"""Moves of one chunk that there is room for at first."""

GAPS = 1 << 12
"""Inputs that are learned at once, at most."""


LOOPS = (
    kernels.expand,
    kernels.judge,
    kernels.run_on,
    kernels.number,
    kernels.place,
    kernels.spread,
    kernels.build,
)
"""What is compiled."""


def is_installed() -> bool:
    """Whether numba is there; it is not imported to find out."""
    return find_spec("numba") is not None


class Loops:
    """The loops as numba compiles them, and the ``seconds`` that went into having them."""

    def __init__(self) -> None:
        started = time.perf_counter()
        made = _dispatchers()
        self.seconds = time.perf_counter() - started
        self.expand, self.judge, self.run_on = map(self._timed, made[:3])
        self.number, self.place, self.spread, self.build = map(self._timed, made[3:])

    def _timed(self, loop: Any) -> Callable[..., Any]:
        """Calls ``loop``; where that compiles it, or loads it, the time counts."""

        def call(*args: Any) -> Any:
            known, started = len(loop.signatures), time.perf_counter()
            result = loop(*args)
            if len(loop.signatures) > known:
                self.seconds += time.perf_counter() - started
            return result

        return call


@cache
def _dispatchers() -> list[Any]:
    """What numba makes of the loops; each is compiled for the types that it is called with.

    It keeps what it compiled beside the source, or in the user's cache directory if it must not
    write there; where neither can be written, every process compiles.
    """
    from numba import njit  # noqa: PLC0415 - takes a second, which small searches do not spend
    from numba.extending import register_jitable  # noqa: PLC0415

    register_jitable(kernels.leaf)

    def made(function: Callable[..., Any]) -> Any:
        try:
            return njit(function, nogil=True, cache=True)
        except RuntimeError:
            return njit(function, nogil=True)

    return [made(function) for function in LOOPS]


class Compiled:
    """Does in compiled loops what the exhaustive search does in numpy; see ``kernels``."""

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        forest: Forest,
        columns: Columns,
        tables: Tables,
        judge: Judge,
        runner: Runner,
        loops: Loops,
    ) -> None:
        self._forest = forest
        self._columns = columns
        self._tables = tables
        self._judge = judge
        self._runner = runner
        self._turns: Ints = np.array(_turns(tasks), np.intp).reshape(-1, 3)
        self._loops = loops
        self._room = ROOM
        self._steps: Ints = np.empty(256, np.intp)
        self._accesses: Ints = np.empty(256, np.intp)
        self._able: Flags = np.empty(256, np.bool_)
        self._rooted = 0
        # Of the moves found last: where tasks ran on to, and which row of that, -1 for none.
        self._ends: Matrix = np.empty((0, 0), np.int32)
        self._end_of: Ints = np.empty(0, np.intp)

    def moves(self, rows: Rows, hashes: Hashes) -> tuple[Moves, Notes, int]:
        """All moves of some states with those hashes, in the order of the reference search.

        Gives them, what is noted of the states, and how many steps were run through besides.
        """
        moves, notes = _room_for(self._room), Notes(*np.empty((2, len(rows)), np.bool_))
        at = count = 0
        while at < len(rows):
            at, count, gaps = self._expand(rows, moves, notes, at, count)
            if len(gaps):
                self._learn_moves(rows, gaps)
            elif at < len(rows):
                self._room *= 2
                old, moves = moves.only(slice(count)), _room_for(self._room)
                for part, kept in zip(moves, old, strict=True):
                    part[:count] = kept
        moves, at = moves.only(slice(count)), 0
        on = np.empty(count, np.bool_)
        while at < count:
            at, gaps = self._judge_moves(rows, hashes, moves, on, at)
            self._learn_verdicts(rows, moves, gaps)
        return moves, notes, self._run_on(rows, moves, on)

    def behind(self, rows: Rows, moves: Moves, fresh: Ints) -> Matrix:
        """The rows behind the moves at ``fresh``, of those that ``moves`` gave last."""
        rows.widen(self._columns.width)
        kind = smallest_type(self._columns.largest)
        made: Matrix = np.zeros((len(fresh), rows.width), kind)
        steps, moods = self._tables.effects, self._judge.effects
        old = rows.matrix.astype(kind, copy=False)  # one type, so that one loop does
        self._loops.build(
            old, moves, self._ends, self._end_of, _changes(steps), _changes(moods), fresh, made
        )
        return made

    def _expand(
        self, rows: Rows, moves: Moves, notes: Notes, at: int, count: int
    ) -> tuple[int, int, Matrix]:
        tables, gaps = self._tables, np.empty((GAPS, 2), np.intp)
        reached, count, missing = self._loops.expand(
            rows.matrix,
            self._turns,
            self._trees(),
            Ways(tables.roots, tables.first, tables.counts),
            moves,
            notes,
            gaps,
            at,
            count,
        )
        return reached, count, gaps[:missing]

    def _judge_moves(
        self, rows: Rows, hashes: Hashes, moves: Moves, on: Flags, at: int
    ) -> tuple[int, Ints]:
        self._find_roots()
        effects, gaps = self._judge.effects, np.empty(GAPS, np.intp)
        reached, missing = self._loops.judge(
            rows.matrix,
            hashes,
            moves,
            self._trees(),
            Rules(self._steps, self._accesses, effects.deltas, self._judge.found),
            _changes(self._tables.effects),
            self._judge.runs,
            on,
            gaps,
            at,
        )
        return reached, gaps[:missing]

    def _run_on(self, rows: Rows, moves: Moves, on: Flags) -> int:
        """Run tasks on behind the moves for which ``on`` says so; gives the number of steps."""
        self._end_of = np.where(on, np.cumsum(on) - 1, -1)
        self._ends = np.zeros((np.count_nonzero(on), rows.width), np.int32)
        at = total = 0
        while len(self._ends) and at < len(on):
            self._find_roots()
            tables, judge = self._tables, self._judge
            gaps = np.empty((GAPS, 1 + rows.width), np.intp)
            at, missing, steps = self._loops.run_on(
                rows.matrix,
                moves,
                self._ends,
                self._end_of,
                self._trees(),
                Ways(tables.roots, tables.first, tables.counts),
                Rules(self._steps, self._accesses, judge.effects.deltas, judge.found),
                Onward(tables.tasks, tables.following, self._able, judge.runs, judge.unsteady),
                _changes(tables.effects),
                _changes(judge.effects),
                gaps,
                at,
            )
            total += steps
            self._learn_runs(gaps[:missing])
            rows.widen(self._columns.width)
            ends = Rows(self._ends, rows.width)
            self._ends = ends.matrix
        return total

    def _learn_runs(self, gaps: Matrix) -> None:
        for task in np.unique(gaps[:, 0]).tolist():
            rows = Rows(gaps[gaps[:, 0] == task, 1:], self._columns.width)
            sources, edges = self._tables.moves(task, rows, np.arange(len(rows)))
            self._judge.verdicts(task, rows, sources, edges)

    def _trees(self) -> Trees:
        return Trees(self._forest.slots, self._forest.columns, self._forest.bases)

    def _find_roots(self) -> None:
        """Have the roots of the verdicts on every edge that was learned."""
        known, total = self._rooted, len(self._tables.taken)
        if total > known:
            steps, accesses = self._judge.roots(np.arange(known, total))
            self._steps = roomier(self._steps, total)
            self._accesses = roomier(self._accesses, total)
            self._steps[known:total], self._accesses[known:total] = steps, accesses
            self._able = roomier(self._able, total)
            self._able[known:total] = self._runner.able(np.arange(known, total))
            self._rooted = total

    def _learn_moves(self, rows: Rows, gaps: Matrix) -> None:
        for task in np.unique(gaps[:, 1]).tolist():
            self._tables.moves(task, rows, gaps[gaps[:, 1] == task, 0])
        rows.widen(self._columns.width)

    def _learn_verdicts(self, rows: Rows, moves: Moves, gaps: Ints) -> None:
        tasks = self._tables.tasks[moves.edges[gaps]]
        for task in np.unique(tasks).tolist():
            at = gaps[tasks == task]
            self._judge.verdicts(task, rows, moves.sources[at], moves.edges[at])
        rows.widen(self._columns.width)


def _turns(tasks: Sequence[Task]) -> list[tuple[int, int, bool]]:
    """(task, when it is asked, whether it is a foreground task), in the order of being asked."""
    first = [
        (
            task.index,
            ALWAYS if task.kind is TaskKind.EVENTUAL else GOING,
            task.kind is TaskKind.FOREGROUND,
        )
        for task in tasks
        if task.kind is not TaskKind.OPTIONAL
    ]
    then = [
        (task.index, MOVED if task.kind is TaskKind.OPTIONAL else RESTING, False)
        for task in tasks
        if task.kind in (TaskKind.DAEMON, TaskKind.OPTIONAL)
    ]
    return first + then


def _room_for(moves: int) -> Moves:
    return Moves(
        sources=np.empty(moves, np.int32),
        edges=np.empty(moves, np.int32),
        verdicts=np.empty(moves, np.int32),
        hashes=np.empty(moves, np.uint64),
        binding=np.empty(moves, np.bool_),
    )


def _changes(effects: Effects) -> Changes:
    return Changes(effects.deltas, effects.first, effects.lengths, effects.columns, effects.numbers)
