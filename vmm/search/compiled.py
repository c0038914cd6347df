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

from vmm.search import kernels
from vmm.search.arrays import Hashes, Ints, Matrix, Rows, roomier, smallest_type
from vmm.search.kernels import Changes, Moves, Notes, Rules, Trees, Ways

if TYPE_CHECKING:
    from vmm.search.columns import Columns, Effects
    from vmm.search.forest import Forest
    from vmm.search.judge import Judge
    from vmm.search.tables import Tables

ROOM = 1 << 16
"""Moves of one chunk that there is room for at first."""

GAPS = 1 << 12
"""Inputs that are learned at once, at most."""


LOOPS = (
    kernels.expand,
    kernels.judge,
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
        self.expand, self.judge, self.number = map(self._timed, made[:3])
        self.place, self.spread, self.build = map(self._timed, made[3:])

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
    """Does in compiled loops what the exhaustive search does in numpy; see ``kernels``.

    ``turns`` are (task, when it is asked, whether it is a foreground task).
    """

    def __init__(
        self,
        forest: Forest,
        columns: Columns,
        tables: Tables,
        judge: Judge,
        turns: Sequence[tuple[int, int, bool]],
        loops: Loops,
    ) -> None:
        self._forest = forest
        self._columns = columns
        self._tables = tables
        self._judge = judge
        self._turns: Ints = np.array(turns, np.intp).reshape(-1, 3)
        self._loops = loops
        self._room = ROOM
        self._steps: Ints = np.empty(256, np.intp)
        self._accesses: Ints = np.empty(256, np.intp)
        self._rooted = 0

    def moves(self, rows: Rows, hashes: Hashes) -> tuple[Moves, Notes]:
        """All moves of some states with those hashes, in the order of the reference search."""
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
        while at < count:
            at, gaps = self._judge_moves(rows, hashes, moves, at)
            self._learn_verdicts(rows, moves, gaps)
        return moves, notes

    def behind(self, rows: Rows, moves: Moves, fresh: Ints) -> Matrix:
        """The rows behind the moves at ``fresh``."""
        rows.widen(self._columns.width)
        kind = smallest_type(self._columns.largest)
        made: Matrix = np.empty((len(fresh), rows.width), kind)
        steps, moods = self._tables.effects, self._judge.effects
        old = rows.matrix.astype(kind, copy=False)  # one type, so that one loop does
        self._loops.build(old, moves, _changes(steps), _changes(moods), fresh, made)
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

    def _judge_moves(self, rows: Rows, hashes: Hashes, moves: Moves, at: int) -> tuple[int, Ints]:
        self._find_roots()
        effects, gaps = self._judge.effects, np.empty(GAPS, np.intp)
        reached, missing = self._loops.judge(
            rows.matrix,
            hashes,
            moves,
            self._trees(),
            Rules(self._steps, self._accesses, effects.deltas, self._judge.found),
            _changes(self._tables.effects),
            gaps,
            at,
        )
        return reached, gaps[:missing]

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
            self._rooted = total

    def _learn_moves(self, rows: Rows, gaps: Matrix) -> None:
        for task in np.unique(gaps[:, 1]).tolist():
            self._tables.moves(task, rows, gaps[gaps[:, 1] == task, 0])
        rows.widen(self._columns.width)

    def _learn_verdicts(self, rows: Rows, moves: Moves, gaps: Ints) -> None:
        tasks = np.array([self._tables.taken[edge].task for edge in moves.edges[gaps]], np.intp)
        for task in np.unique(tasks).tolist():
            at = gaps[tasks == task]
            self._judge.verdicts(task, rows, moves.sources[at], moves.edges[at])
        rows.widen(self._columns.width)


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
