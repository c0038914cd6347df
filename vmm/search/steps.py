"""The graph of all states as a search leaves it, for what only the whole of it can tell.

Kept are the steps that are not optional, 5 bytes each in a small world. Where no state is lost and
no round can be fair, which the learned tables often tell, next to nothing is done with them.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vmm.engine.task import TaskKind
from vmm.search.arrays import Flags, Ints, Numbers, roomier, smallest_type
from vmm.search.liveness import Lasso, Queues, Way, components, is_progress, lasso

if TYPE_CHECKING:
    from vmm.engine.world import World
    from vmm.search.moves import Moves
    from vmm.search.tables import Tables

TRIM_WHILE = 0.9
"""Trimming goes on while it leaves less than that share of the steps."""

Node = tuple[str, int, int]
"""A local state of a task, or a content of a cell."""


class _Chunk:
    """The steps of the states from ``base`` on: so many of each, to which states, by which moves.

    The next level begins with the state ``deeper``.
    """

    def __init__(self, base: int, deeper: int, counts: Ints, targets: Numbers, moves: Ints) -> None:
        self.base, self.deeper = base, deeper
        self.counts, self.targets, self.moves = _narrow(counts), targets, _narrow(moves)
        self.states = slice(base, base + len(counts))
        self.nbytes = self.counts.nbytes + self.targets.nbytes + self.moves.nbytes

    @cached_property
    def first(self) -> Ints:
        """Where the steps of each state begin, and the end."""
        first = np.zeros(len(self.counts) + 1, np.intp)
        np.cumsum(self.counts, out=first[1:])
        return first

    def of(self, wanted: Flags) -> tuple[Ints, Ints]:
        """The steps of the wanted ones: (from which state, where in the chunk) for each."""
        states = np.flatnonzero(wanted)
        first = self.first[states]
        counts = self.first[states + 1] - first
        begin = np.cumsum(counts) - counts
        at = np.repeat(first - begin, counts) + np.arange(counts.sum())
        return np.repeat(self.base + states, counts), at


class Steps:
    """All steps that are not optional, in the order in which they were found."""

    def __init__(self) -> None:
        self.nbytes = 0
        """Memory in use."""
        self._ends: Flags = np.zeros(1 << 12, np.bool_)
        self._chunks: list[_Chunk] = []
        self._deepens = True
        """Whether each step leads to the next level, so that there is no way back."""

    def add(self, base: int, counts: Ints, targets: Numbers, moves: Ints, deeper: int) -> None:
        """All steps of the states from ``base`` on, of which each has so many.

        The next level begins with number ``deeper``.
        """
        if not targets.size:
            return
        self._deepens = self._deepens and int(targets.min()) >= deeper
        chunk = _Chunk(base, deeper, counts, targets, moves)
        self._chunks.append(chunk)
        self.nbytes += chunk.nbytes

    def add_ends(self, states: Ints) -> None:
        """States in which a run ends."""
        if states.size:
            before = self._ends.nbytes
            self._ends = roomier(self._ends, int(states.max()) + 1)
            self._ends[states] = True
            self.nbytes += self._ends.nbytes - before

    # --- lost states ---

    def lost(self, states: int) -> Flags | None:
        """Those of so many states from which no end can be reached; None if there are none.

        From most states some way leads on and on to deeper levels, to an end or to a state that is
        *stuck*: it has no step to the next level. So the graph is looked at only where stuck states
        do not get away by a step of theirs and by such ways.
        """
        free = roomier(self._ends, states)[:states].copy()
        onward: Numbers = np.zeros(states, np.int32)
        for chunk in self._chunks:
            # Mostly the last step leads there; of a state without steps this is another one's.
            last = chunk.targets[chunk.first[1:] - 1]
            onward[chunk.states] = last * ((last >= chunk.deeper) & (chunk.counts > 0))
            sources, at = chunk.of(onward[chunk.states] == 0)
            deeper = np.flatnonzero(chunk.targets[at] >= chunk.deeper)
            onward[sources[deeper]] = chunk.targets[at[deeper]]
        stuck = ~free & (onward == 0)
        if not stuck.any() or self._all_get_away(free.copy(), stuck, onward):
            return None
        steps, before = [], -1
        for chunk in self._chunks:
            sources, at = chunk.of(~free[chunk.states])
            steps.append((sources, chunk.targets[at]))
        # From the last steps to the first, as most lead to the next level, until nothing changes.
        while (now := int(np.count_nonzero(free))) != before:
            before, rest = now, []
            for sources, targets in reversed(steps):
                free[sources.compress(free.take(targets))] = True
                still = np.flatnonzero(~free.take(sources))
                if still.size:
                    rest.append((sources[still], targets[still]))
            steps = rest[::-1]
        return None if free.all() else ~free

    def _all_get_away(self, free: Flags, stuck: Flags, onward: Numbers) -> bool:
        """Whether from each stuck state one step, and then the way on, leads to an end.

        Or to another stuck state of which that holds.
        """
        there = np.flatnonzero(free | stuck)
        onward[there] = there
        found = []
        for chunk in reversed(self._chunks):  # what is deeper has been led to its end already
            onward[chunk.states] = onward[onward[chunk.states]]
            sources, at = chunk.of(stuck[chunk.states])
            found.append((sources, chunk.targets[at]))
        sources, targets = [np.concatenate(part) for part in zip(*found, strict=True)]
        led, before = onward[targets], -1
        while (now := int(np.count_nonzero(free))) != before:
            before = now
            free[sources[free[led]]] = True
        return bool(free[there].all())

    # --- rounds ---

    def lasso(
        self, world: World, tables: Tables, moves: Moves, states: int, queues: Queues
    ) -> Lasso | None:
        """The livelock of a world with so many states, if it has any; see ``liveness.lasso``."""
        lost = self.lost(states)
        ways: dict[int, list[Way]] = {}
        if not self._deepens:
            first = np.array([edges[0] if edges else 0 for edges in moves.edges], np.intp)
            again, away = [of_edges[first] for of_edges in _returning(world, tables)]
            ways = self._ways(states, again, away, moves.tasks) if again.any() else {}
        if lost is None and not ways:
            return None
        enabled = self._enabled(states, ways, moves.tasks)
        return lasso(ways, enabled, None if lost is None else lost.tolist(), queues)

    def _ways(self, states: int, again: Flags, away: Flags, tasks: Numbers) -> dict[int, list[Way]]:
        """The steps that may be part of a fair round."""
        inside: Flags = np.zeros(states, np.bool_)
        for chunk in self._chunks:
            so_far = np.zeros(len(chunk.moves) + 1, np.int32)
            np.cumsum(away.take(chunk.moves), out=so_far[1:])
            inside[chunk.states] = so_far[chunk.first[:-1]] == so_far[chunk.first[1:]]
        found = []
        for chunk in self._chunks:
            sources, at = chunk.of(inside[chunk.states])
            stays = again.take(chunk.moves[at]) & inside.take(chunk.targets[at])
            at = at[stays]
            targets, moves = chunk.targets[at].astype(np.intp), chunk.moves[at].astype(np.intp)
            found.append((sources[stays], targets, moves))
        kept = _trimmed(*[np.concatenate(part) for part in zip(*found, strict=True)])
        ways: dict[int, list[Way]] = defaultdict(list)
        for source, target, move in zip(*[part.tolist() for part in kept], strict=True):
            ways[source].append(Way(int(tasks[move]), target, move))
        return dict(ways)

    def _enabled(self, states: int, ways: dict[int, list[Way]], tasks: Numbers) -> dict[int, int]:
        """For each of these states the tasks that can step there."""
        asked = np.zeros(states, np.bool_)
        asked[list(ways)] = True
        enabled = dict.fromkeys(ways, 0)
        for chunk in self._chunks:
            sources, at = chunk.of(asked[chunk.states])
            stepping = tasks[chunk.moves[at]]
            for source, task in zip(sources.tolist(), stepping.tolist(), strict=True):
                enabled[source] |= 1 << task
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
