"""The inner loops of ``kernels``, compiled by numba where that is installed.

Compiling takes seconds once, and loading what was compiled takes a second in each process, so a
search changes over when it has grown large. What it finds is the same to the number of each state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vmm.engine.task import TaskKind
from vmm.search import kernels
from vmm.search.arrays import Flags, Hashes, Ints, Matrix, Numbers, Rows, roomier, smallest_type
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
    kernels.build,
    kernels.claim,
    kernels.settle,
    kernels.place,
    kernels.follow,
)
"""What is compiled."""


def is_installed() -> bool:
    """Whether numba is there; it is not imported to find out."""
    return find_spec("numba") is not None


Item = TypeVar("Item")
Done = TypeVar("Done")


class Loops:
    """The loops as numba compiles them, and the ``seconds`` that went into having them.

    They let other threads run, so that ``jobs`` threads can ``share`` work.
    """

    def __init__(self, jobs: int = 1) -> None:
        started = time.perf_counter()
        made = _dispatchers()
        self.seconds = time.perf_counter() - started
        self.jobs = jobs
        self._threads = ThreadPoolExecutor(jobs) if jobs > 1 else None
        self._lock = Lock()
        self.expand, self.judge, self.run_on, self.build = map(self._timed, made[:4])
        self.claim, self.settle, self.place, self.follow = map(self._timed, made[4:])

    def share(self, do: Callable[[Item], Done], items: Sequence[Item]) -> list[Done]:
        """What comes of each of the items, in their order."""
        if self._threads is None or len(items) == 1:
            return [do(item) for item in items]
        return list(self._threads.map(do, items))

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()

    def _timed(self, loop: Any) -> Callable[..., Any]:
        """Calls ``loop``; where that compiles it, or loads it, the time counts, but once only."""
        counted = len(loop.signatures)

        def call(*args: Any) -> Any:
            nonlocal counted
            started = time.perf_counter()
            result = loop(*args)
            if len(loop.signatures) > counted:
                with self._lock:
                    self.seconds += (len(loop.signatures) > counted) * (
                        time.perf_counter() - started
                    )
                    counted = len(loop.signatures)
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
        self._rooms = [_room_for(ROOM) for _ in range(loops.jobs)]
        self._steps: Ints = np.empty(256, np.intp)
        self._accesses: Ints = np.empty(256, np.intp)
        self._able: Flags = np.empty(256, np.bool_)
        self._rooted = 0
        # Of the moves found last: where tasks ran on to, and which row of that, -1 for none.
        self._ends: Matrix = np.empty((0, 0), np.int32)
        self._end_of: Numbers = np.empty(0, np.int32)

    def moves(self, rows: Rows, hashes: Hashes) -> tuple[Moves, Notes, int]:
        """All moves of some states with those hashes, in the order of the reference search.

        Gives them, what is noted of the states, and how many steps were run through besides. They
        are overwritten by the next ones.
        """
        jobs = min(self._loops.jobs, len(rows))
        bounds = [len(rows) * job // jobs for job in range(jobs + 1)]
        parts = [
            _Part(job, bounds[job], Rows(rows.matrix[begin:end], rows.width), hashes[begin:end])
            for job, (begin, end) in enumerate(pairwise(bounds))
        ]
        for part in parts:
            part.moves = self._rooms[part.job]
        self._in_turns(parts, self._expand, self._learn_moves)
        for part in parts:
            part.begin_to_judge()
        self._in_turns(parts, self._judge_moves, self._learn_verdicts)
        for part in parts:
            part.begin_to_run_on()
        self._in_turns([part for part in parts if len(part.ends)], self._run_on, self._learn_runs)
        rows.widen(self._columns.width)
        return self._whole(parts)

    def behind(self, rows: Rows, moves: Moves, fresh: Ints) -> Matrix:
        """The rows behind the moves at ``fresh``, of those that ``moves`` gave last."""
        rows.widen(self._columns.width)
        kind = smallest_type(self._columns.largest)
        made: Matrix = np.zeros((len(fresh), rows.width), kind)
        steps, moods = _changes(self._tables.effects), _changes(self._judge.effects)
        old = rows.matrix.astype(kind, copy=False)  # one type, so that one loop does
        size = len(fresh) // self._loops.jobs + 1

        def build(begin: int) -> None:
            end = begin + size
            self._loops.build(
                old, moves, self._ends, self._end_of, steps, moods, fresh[begin:end],
                made[begin:end],
            )  # fmt: skip

        self._loops.share(build, range(0, len(fresh), size))
        return made

    def _in_turns(
        self,
        parts: Sequence[_Part],
        loop: Callable[[_Part], Matrix],
        learn: Callable[[_Part, Matrix], None],
    ) -> None:
        """Let the jobs do their parts; when all have stopped, learn what was missing; and so on."""
        while parts:
            self._find_roots()
            for part in parts:
                part.widen(self._columns.width)
            found = self._loops.share(loop, parts)
            for part, gaps in zip(parts, found, strict=True):
                learn(part, gaps)
            parts = [part for part in parts if part.at < part.end]

    def _whole(self, parts: Sequence[_Part]) -> tuple[Moves, Notes, int]:
        through = sum([part.through for part in parts])
        if len(parts) == 1:
            self._ends, self._end_of = parts[0].ends, parts[0].end_of
            return parts[0].moves, parts[0].notes, through
        ends = 0
        for part in parts:
            part.moves.sources[:] += part.first
            part.end_of[part.end_of >= 0] += ends
            ends += len(part.ends)
        width = self._columns.width
        self._ends = np.concatenate([Rows(part.ends, width).matrix for part in parts])
        self._end_of = np.concatenate([part.end_of for part in parts])
        moves = Moves(*map(np.concatenate, zip(*[part.moves for part in parts], strict=True)))
        notes = Notes(*map(np.concatenate, zip(*[part.notes for part in parts], strict=True)))
        return moves, notes, through

    def _expand(self, part: _Part) -> Matrix:
        tables, gaps = self._tables, np.empty((GAPS, 2), np.intp)
        part.at, part.count, missing = self._loops.expand(
            part.rows.matrix,
            self._turns,
            self._trees(),
            Ways(tables.roots, tables.first, tables.counts),
            part.moves,
            part.notes,
            gaps,
            part.at,
            part.count,
        )
        return gaps[:missing]

    def _learn_moves(self, part: _Part, gaps: Matrix) -> None:
        for task in np.unique(gaps[:, 1]).tolist():
            self._tables.moves(task, part.rows, gaps[gaps[:, 1] == task, 0])
        if not len(gaps) and part.at < part.end:
            old = part.moves
            part.moves = self._rooms[part.job] = _room_for(2 * len(old.sources))
            for now, before in zip(part.moves, old, strict=True):
                now[: part.count] = before[: part.count]

    def _judge_moves(self, part: _Part) -> Ints:
        effects, gaps = self._judge.effects, np.empty(GAPS, np.intp)
        part.at, missing = self._loops.judge(
            part.rows.matrix,
            part.hashes,
            part.moves,
            self._trees(),
            Rules(self._steps, self._accesses, effects.deltas, self._judge.found),
            _changes(self._tables.effects),
            self._judge.runs,
            part.on,
            gaps,
            part.at,
        )
        return gaps[:missing]

    def _learn_verdicts(self, part: _Part, gaps: Ints) -> None:
        moves = part.moves
        tasks = self._tables.tasks[moves.edges[gaps]]
        for task in np.unique(tasks).tolist():
            at = gaps[tasks == task]
            self._judge.verdicts(task, part.rows, moves.sources[at], moves.edges[at])

    def _run_on(self, part: _Part) -> Matrix:
        tables, judge = self._tables, self._judge
        gaps = np.empty((GAPS, 1 + part.rows.width), np.intp)
        part.at, missing, steps = self._loops.run_on(
            part.rows.matrix,
            part.moves,
            part.ends,
            part.end_of,
            self._trees(),
            Ways(tables.roots, tables.first, tables.counts),
            Rules(self._steps, self._accesses, judge.effects.deltas, judge.found),
            Onward(tables.tasks, tables.following, self._able, judge.runs, judge.unsteady),
            _changes(tables.effects),
            _changes(judge.effects),
            gaps,
            part.at,
        )
        part.through += steps
        return gaps[:missing]

    def _learn_runs(self, _: _Part, gaps: Matrix) -> None:
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


class _Part:
    """What one job does of a chunk: the states, of which ``first`` is the first, and their moves.

    ``at`` is the state or the move that is next, of ``end``; ``count`` moves are known.
    """

    def __init__(self, job: int, first: int, rows: Rows, hashes: Hashes) -> None:
        self.job, self.first, self.rows, self.hashes = job, first, rows, hashes
        self.moves = _room_for(0)
        self.notes = Notes(*np.empty((2, len(rows)), np.bool_))
        self.at, self.end = 0, len(rows)
        self.count = self.through = 0
        # Whether the task goes on behind a move, and where to; see ``Compiled``.
        self.on: Flags = np.empty(0, np.bool_)
        self.ends: Matrix = np.empty((0, rows.width), np.int32)
        self.end_of: Numbers = np.empty(0, np.int32)

    def widen(self, width: int) -> None:
        """Make room for ``width`` columns, which trees may look at now."""
        self.rows.widen(width)
        self.ends = Rows(self.ends, width).matrix

    def begin_to_judge(self) -> None:
        """All moves are known."""
        self.moves = self.moves.only(slice(self.count))
        self.on = np.empty(self.count, np.bool_)
        self.at, self.end = 0, self.count

    def begin_to_run_on(self) -> None:
        """The verdicts are known."""
        ran = np.flatnonzero(self.on)
        self.end_of = np.full(self.count, -1, np.int32)
        self.end_of[ran] = np.arange(len(ran))
        self.ends = np.zeros((len(ran), self.rows.width), np.int32)
        self.at = 0


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
