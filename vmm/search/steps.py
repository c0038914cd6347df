"""The graph of all states as a search leaves it, for what only the whole of it can tell.

Kept are the steps that are not optional, 8 bytes each in a small world. Where no state is lost and
no round can be fair, which the learned tables often tell, next to nothing is done with them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vmm.engine.task import TaskKind
from vmm.search.arrays import Flags, Ints, Numbers, roomier, smallest_type
from vmm.search.liveness import Lasso, Way, components, is_progress, lasso

if TYPE_CHECKING:
    from vmm.engine.world import World
    from vmm.search.compiled import Loops
    from vmm.search.moves import Moves
    from vmm.search.tables import Tables

TRIM_WHILE = 0.9
"""Trimming goes on while it leaves less than that share of the steps."""

Node = tuple[str, int, int]
"""A local state of a task, or a content of a cell."""


class Steps:
    """All steps that are not optional, in the order in which they were found.

    ``loops`` are compiled ones, once a search is large enough for them.
    """

    loops: Loops | None = None

    def __init__(self) -> None:
        self.nbytes = 0
        """Memory in use."""
        self._ends: Flags = np.zeros(1 << 12, np.bool_)
        self._onward: Numbers = np.zeros(1 << 12, np.int32)
        """For each state one to which it has a step at the next level; 0 if there is none."""
        self._chunks: list[tuple[int, npt.NDArray[Any], Numbers, npt.NDArray[Any]]] = []
        self._deepens = True
        """Whether each step leads to the next level, so that there is no way back."""

    def add(self, base: int, sources: Ints, edges: Ints, targets: Ints, deeper: int) -> None:
        """All steps of some states; ``sources`` count from ``base``.

        The next level begins with number ``deeper``.
        """
        if not sources.size:
            return
        down = targets >= deeper
        self._deepens = self._deepens and bool(down.all())
        before = self._ends.nbytes + self._onward.nbytes
        self._onward = roomier(self._onward, deeper)
        self._onward[base + sources[down]] = targets[down]
        chunk = _narrow(sources), targets.astype(np.int32), _narrow(edges)
        self._chunks.append((base, *chunk))
        now = self._ends.nbytes + self._onward.nbytes
        self.nbytes += now - before + sum([part.nbytes for part in chunk])

    def add_ends(self, states: Ints) -> None:
        """States in which a run ends."""
        if states.size:
            self._ends = roomier(self._ends, int(states.max()) + 1)
            self._ends[states] = True

    # --- lost states ---

    def lost(self, states: int) -> Flags | None:
        """Those of so many states from which no end can be reached; None if there are none.

        From most states some way leads on and on to deeper levels, to an end or to a state that is
        *stuck*: it has no step to the next level. So the graph is looked at only where stuck states
        do not get away by a step of theirs and by such ways.
        """
        free = roomier(self._ends, states)[:states].copy()
        onward = roomier(self._onward, states)[:states].copy()
        stuck = ~free & (onward == 0)
        if not stuck.any() or self._all_get_away(free.copy(), stuck, onward):
            return None
        steps = [(base + at.astype(np.intp), targets) for base, at, targets, _ in self._chunks]
        before = -1
        # From the last steps to the first, as most lead to the next level, until nothing changes.
        while (now := int(np.count_nonzero(free))) != before:
            before, left = now, []
            for sources, targets in reversed(steps):
                free[sources.compress(free.take(targets))] = True
                still = np.flatnonzero(~free.take(sources))
                if still.size:
                    left.append((sources[still], targets[still]))
            steps = left[::-1]
        return None if free.all() else ~free

    def _all_get_away(self, free: Flags, stuck: Flags, onward: Numbers) -> bool:
        """Whether from each stuck state one step, and then the way on, leads to an end.

        Or to another stuck state of which that holds.
        """
        there = np.flatnonzero(free | stuck)
        onward[there] = there
        if self.loops is not None:
            self.loops.follow(onward)
        else:
            while not np.array_equal(further := onward[onward], onward):
                onward = further
        found = [(np.empty(0, np.intp), np.empty(0, np.int32))]
        for base, offsets, targets, _ in self._chunks:
            at = np.flatnonzero(stuck[base:].take(offsets))
            found.append((base + offsets[at].astype(np.intp), targets[at]))
        sources, targets = [np.concatenate(part) for part in zip(*found, strict=True)]
        led, before = onward[targets], -1
        while (now := int(np.count_nonzero(free))) != before:
            before = now
            free[sources[free[led]]] = True
        return bool(free[there].all())

    # --- rounds ---

    def lasso(self, world: World, tables: Tables, moves: Moves, states: int) -> Lasso | None:
        """The livelock of a world with so many states, if it has any; see ``liveness.lasso``."""
        lost = self.lost(states)
        ways: dict[int, list[Way]] = {}
        if not self._deepens:
            first = np.array([edges[0] if edges else 0 for edges in moves.edges], np.intp)
            again, away = [of_edges[first] for of_edges in _returning(world, tables)]
            ways = self._ways(again, away, moves.tasks) if again.any() else {}
        if lost is None and not ways:
            return None
        return lasso(
            ways, self._enabled(ways, moves.tasks), None if lost is None else lost.tolist()
        )

    def _ways(self, again: Flags, away: Flags, tasks: Numbers) -> dict[int, list[Way]]:
        """The steps that may be part of a fair round."""
        found = []
        outside = np.zeros(len(self._onward) + 1, np.bool_)
        for base, offsets, _, edges in self._chunks:
            outside[base + offsets[away.take(edges)].astype(np.intp)] = True
        for base, offsets, targets, edges in self._chunks:
            at = np.flatnonzero(again.take(edges))
            sources = base + offsets[at].astype(np.intp)
            inside = ~(outside.take(sources) | outside.take(targets[at]))
            at, sources = at[inside], sources[inside]
            found.append((sources, targets[at].astype(np.intp), edges[at].astype(np.intp)))
        kept = _trimmed(*[np.concatenate(part) for part in zip(*found, strict=True)])
        ways: dict[int, list[Way]] = defaultdict(list)
        for source, target, move in zip(*[part.tolist() for part in kept], strict=True):
            ways[source].append(Way(int(tasks[move]), target, move))
        return dict(ways)

    def _enabled(self, ways: dict[int, list[Way]], tasks: Numbers) -> dict[int, int]:
        """For each of these states the tasks that can step there."""
        asked = np.zeros(len(self._onward) + 1, np.bool_)
        asked[list(ways)] = True
        enabled = dict.fromkeys(ways, 0)
        for base, offsets, _, edges in self._chunks:
            at = np.flatnonzero(asked[base + offsets.astype(np.intp)])
            stepping = tasks[edges[at]]
            for offset, task in zip(offsets[at].tolist(), stepping.tolist(), strict=True):
                enabled[base + offset] |= 1 << task
        return enabled


def _narrow(numbers: Ints) -> npt.NDArray[Any]:
    return numbers.astype(smallest_type(int(numbers.max(initial=0))))


def _trimmed(sources: Ints, targets: Ints, edges: Ints) -> tuple[Ints, Ints, Ints]:
    """The steps without most of those that come from nowhere or lead nowhere."""
    states = int(max(sources.max(initial=0), targets.max(initial=0))) + 1
    before = 2 * len(sources) + 1
    while len(sources) < before * TRIM_WHILE:
        before = len(sources)
        left, reached = np.zeros(states, np.bool_), np.zeros(states, np.bool_)
        left[sources], reached[targets] = True, True
        kept = np.flatnonzero(reached[sources] & left[targets])
        sources, targets, edges = sources[kept], targets[kept], edges[kept]
    return sources, targets, edges


# --- what the tables tell of all states at once ---


def _returning(world: World, tables: Tables) -> tuple[Flags, Flags]:
    """By edge: whether a round may take it, and whether its task is never there again, nor blocked.

    In a round each task comes back to its local state and each cell to its content. So an edge that
    is part of one is part of a cycle of the local states of its task, and of the contents of each
    cell that it writes; progress and optional steps are left out. Where a task has no such edge,
    but can always step, no round is fair to it.
    """
    arcs: dict[int, list[tuple[Node, Node]]] = {}
    for number, (task, local, edge, before, _, _) in enumerate(tables.taken):
        made = world.tasks[task]
        if made.kind is not TaskKind.OPTIONAL and not is_progress(world, made, edge.events):
            arcs[number] = [(("task", task, local), ("task", task, edge.following))]
            arcs[number] += [
                (("cell", cell, before[cell]), ("cell", cell, new)) for cell, new in edge.writes
            ]
    while _drop_one_way(arcs):
        pass
    again = np.zeros(len(tables.taken), np.bool_)
    again[list(arcs)] = True
    coming_back = {tables.taken[number][:2] for number in arcs}
    away = [
        (task, local) not in coming_back and not tables.automata[task].ops[local].may_block
        for task, local, *_ in tables.taken
    ]
    return again, np.array(away, np.bool_)


def _drop_one_way(arcs: dict[int, list[tuple[Node, Node]]]) -> bool:
    """Drop the edges of which some arc is on no cycle; whether there were any."""
    following: dict[Node, list[Node]] = defaultdict(list)
    for pairs in arcs.values():
        for start, end in pairs:
            following[start].append(end)
    home = {node: number for number, part in enumerate(components(following)) for node in part}
    dropped = [
        number
        for number, pairs in arcs.items()
        if any(start not in home or home[start] != home.get(end) for start, end in pairs)
    ]
    for number in dropped:
        del arcs[number]
    return bool(dropped)
