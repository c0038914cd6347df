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
from vmm.search.kernels import ALWAYS, GOING, MOVED, NEVER, RESTING, Effects, Trees
from vmm.search.plain import Onward

if TYPE_CHECKING:
    from vmm.engine.task import Task
    from vmm.search.columns import Columns
    from vmm.search.forest import Forest
    from vmm.search.moves import Moves

ROOM = 1 << 16
"""Moves of one chunk that there is room for at first."""

GAPS = 1 << 12
"""Inputs that are learned at once, at most."""


LOOPS = (
    kernels.expand,
    kernels.build,
    kernels.claim,
    kernels.settle,
    kernels.place,
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
        self.expand, self.build, self.claim = map(self._timed, made[:3])
        self.settle, self.place = map(self._timed, made[3:])

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
        counted = len(loop.overloads)

        def call(*args: Any) -> Any:
            nonlocal counted
            started = time.perf_counter()
            result = loop(*args)
            if len(loop.overloads) > counted:
                with self._lock:
                    self.seconds += (len(loop.overloads) > counted) * (
                        time.perf_counter() - started
                    )
                    counted = len(loop.overloads)
            return result

        return call


@cache
def _dispatchers() -> list[Any]:
    """What numba makes of the loops; each is compiled for the types that it is called with.

    It keeps what it compiled beside the source, or in the user's cache directory if it must not
    write there; where neither can be written, every process compiles.
    """
    from numba import njit  # noqa: PLC0415 - takes a second, which small searches do not spend
    from numba.extending import overload  # noqa: PLC0415

    from vmm.search.prefetching import prefetch  # noqa: PLC0415

    overload(kernels.prefetch)(prefetch)

    def made(function: Callable[..., Any]) -> Any:
        try:
            return njit(function, nogil=True, cache=True)
        except RuntimeError:
            return njit(function, nogil=True)

    return [made(function) for function in LOOPS]


class Compiled:
    """Expands states as ``Plain`` does, in compiled loops; see ``kernels``."""

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        forest: Forest,
        columns: Columns,
        moves: Moves,
        loops: Loops,
    ) -> None:
        self._forest = forest
        self._columns = columns
        self._moves = moves
        self._turns: Numbers = np.array(_turns(tasks), np.int32)
        self._foreground: Flags = np.array(
            [task.kind is TaskKind.FOREGROUND for task in tasks], np.bool_
        )
        self._loops = loops
        self._rooms = [_room_for(ROOM) for _ in range(loops.jobs)]

    def onward(self, rows: Rows, hashes: Hashes) -> Onward:
        """As ``Plain.onward``; it is overwritten by the next one."""
        jobs = min(self._loops.jobs, len(rows))
        bounds = [len(rows) * job // jobs for job in range(jobs + 1)]
        parts = [
            _Part(
                begin, Rows(rows.matrix[begin:end], rows.width), hashes[begin:end], self._rooms[job]
            )
            for job, (begin, end) in enumerate(pairwise(bounds))
        ]
        left = parts
        while left:
            # All jobs have stopped when something is learned.
            for part in left:
                part.rows.widen(self._columns.width)
            gaps = self._loops.share(self._expand, left)
            for part, missing in zip(left, gaps, strict=True):
                self._learn(part, missing)
            left = [part for part in left if part.at < len(part.rows)]
        self._rooms[: len(parts)] = [part.room for part in parts]
        found = [part.onward() for part in parts]
        return (
            found[0] if len(found) == 1 else Onward(*map(np.concatenate, zip(*found, strict=True)))
        )

    def _expand(self, part: _Part) -> Matrix:
        moves, forest = self._moves, self._forest
        gaps = np.empty((GAPS, 2), np.intp)
        part.at, part.count, missing = self._loops.expand(
            part.rows.matrix,
            part.hashes,
            self._foreground,
            self._turns,
            Trees(forest.slots, forest.columns, forest.bases, moves.roots),
            moves.counts,
            moves.effects.deltas,
            Onward(*part.room, part.running, part.counts),
            gaps,
            part.at,
            part.count,
        )
        return gaps[:missing]

    def _learn(self, part: _Part, gaps: Matrix) -> None:
        if len(gaps):
            numbers, tasks = gaps[:, 0], gaps[:, 1]
            roots = self._moves.roots[tasks, part.rows.matrix[numbers, tasks]]
            self._moves.answers(part.rows, numbers, tasks, roots)
        elif part.at < len(part.rows):
            part.double_room()

    def behind(self, rows: Rows, onward: Onward, fresh: Ints) -> Matrix:
        """The rows behind the moves at ``fresh``."""
        rows.widen(self._columns.width)
        kind = smallest_type(self._columns.largest)
        made: Matrix = np.empty((len(fresh), rows.width), kind)
        old = rows.matrix.astype(kind, copy=False)  # one type, so that one loop does
        effects, size = self._moves.effects, len(fresh) // self._loops.jobs + 1
        changes = Effects(
            effects.deltas, effects.first, effects.lengths, effects.columns, effects.numbers
        )

        def build(begin: int) -> None:
            end = begin + size
            self._loops.build(
                old, onward.sources, onward.moves, changes, fresh[begin:end], made[begin:end]
            )

        self._loops.share(build, range(0, len(fresh), size))
        return made


Room = tuple[Numbers, Numbers, Hashes]
"""Sources, moves and hashes of ways on."""


class _Part:
    """What one job does of a chunk: the states, of which ``first`` is the first, and the ways on.

    ``at`` is the state that is next; ``count`` ways on are known.
    """

    def __init__(self, first: int, rows: Rows, hashes: Hashes, room: Room) -> None:
        self.first, self.rows, self.hashes, self.room = first, rows, hashes, room
        self.running = np.empty(len(rows), np.bool_)
        self.counts: Numbers = np.empty(len(rows), np.int32)
        self.at = self.count = 0

    def double_room(self) -> None:
        """Make room for more ways on."""
        sources, moves, hashes = self.room
        self.room = (
            roomier(sources, 2 * len(sources)),
            roomier(moves, 2 * len(moves)),
            roomier(hashes, 2 * len(hashes)),
        )

    def onward(self) -> Onward:
        """The ways on from all of the states."""
        sources, moves, hashes = self.room
        sources, moves, hashes = sources[: self.count], moves[: self.count], hashes[: self.count]
        sources += self.first
        return Onward(sources, moves, hashes, self.running, self.counts)


def _turns(tasks: Sequence[Task]) -> list[int]:
    """When each task is asked in the first round, and in the second one if there is any."""
    first = {TaskKind.EVENTUAL: ALWAYS, TaskKind.OPTIONAL: NEVER}
    then = {TaskKind.DAEMON: RESTING, TaskKind.OPTIONAL: MOVED}
    turns = [first.get(task.kind, GOING) for task in tasks]
    if any(task.kind in then for task in tasks):
        turns += [then.get(task.kind, NEVER) for task in tasks]
    return turns


def _room_for(moves: int) -> Room:
    return np.empty(moves, np.int32), np.empty(moves, np.int32), np.empty(moves, np.uint64)
