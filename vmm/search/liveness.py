"""Livelock: runs that go on for ever and come to nothing, judged on the graph of all states.

The graph has the states that are no ends and, of their steps, those that are not optional:
hardware that may act need not, so it saves nobody.

- ``livelock/inescapable``: from some state no end can be reached.
- ``livelock/fair``: some round, a cycle of the graph, can be gone for ever although no task is
  passed over that could always step, and no foreground task makes progress in it: none ends or
  reaches a goal of the scenario. A round of daemons in which a foreground task waits is one; a
  daemon that loops beside a foreground task which can step is none; what goes on in quiet states is
  never looked at, because a run ends there. Hardware that never rests is one by itself.

Fair means weakly fair (justice): each foreground, daemon or eventual task steps in the round, or
cannot step in some state of it. And locks have queues: a task that waits for a lock all round is
not overtaken by another one that takes it.

It is enough to judge whole strongly connected components of the graph without the steps that make
progress. If a task can always step in a component and never does, the same holds in all rounds
within. If it waits for a lock and never steps, no round is fair that takes the lock, so these
steps are taken away, and the components of the rest are judged in the same way.

Source: Lehmann, Pnueli, Stavi, Impartiality, Justice and Fairness (1981); Tarjan, Depth-First
Search and Linear Graph Algorithms (1972); for what is taken away, Emerson, Lei, Modalities for
Model Checking (1987). Linux has had spinlocks with queues on x86 since 2.6.25 (tickets, 314cdbefd1)
and 4.2 (qspinlock); queues of readers and writers since 3.16, and mutexes that are handed over to
who waits since 4.10, are recalled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from vmm.engine.events import Event, Goal
from vmm.engine.monitor import Finding
from vmm.engine.ops import Acquire
from vmm.engine.task import TaskKind
from vmm.engine.tso import bare
from vmm.engine.waits import waiting

if TYPE_CHECKING:
    from vmm.engine.ops import Op
    from vmm.engine.task import Task
    from vmm.engine.world import World

N = TypeVar("N", bound=Hashable)

OPS_SHOWN = 4
"""Ops of each task that a message names."""


class Way(NamedTuple):
    """A step out of a state; ``edge`` is what the search knows it by."""

    task: int
    target: int
    edge: int


Ways = Mapping[int, Sequence[Way]]
"""The steps out of each state, by the number of the state: breadth-first, so the first comes first.
"""


class Queues(NamedTuple):
    """Who waits for which lock, and who takes it, in the numbers of the states and edges."""

    awaited: Callable[[int], Mapping[int, int]]
    """In a state: the lock that each task waits for or is about to take; see ``awaited_locks``."""
    taken: Callable[[int], Collection[int]]
    """The locks that an edge takes."""


class Lasso(NamedTuple):
    """A round and the state in which it begins and ends.

    ``is_lost``: from there no end can be reached; then the round may be unknown.
    """

    start: int
    round: tuple[Way, ...]
    is_lost: bool


def is_progress(world: World, task: Task, events: Iterable[Event]) -> bool:
    """Whether a step with these events gets a foreground task on."""
    return task.kind is TaskKind.FOREGROUND and any(
        isinstance(event, Goal) and event.name in world.goals for event in events
    )


def queue_of(op: Op | None) -> int | None:
    """The number of the lock that an op waits for and takes."""
    inner = bare(op) if op is not None else None
    return inner.cell.index if isinstance(inner, Acquire) else None


def awaited_locks(world: World, pending: Sequence[Op | None]) -> dict[int, int]:
    """By task: the lock that it waits for or is about to take. Who need not act does not wait."""
    return {
        task.index: lock
        for task, op in zip(world.tasks, pending, strict=True)
        if task.kind is not TaskKind.OPTIONAL and (lock := queue_of(op)) is not None
    }


def taken_locks(ops: Iterable[Op]) -> tuple[int, ...]:
    """The locks that these ops take."""
    return tuple([lock for op in ops if (lock := queue_of(op)) is not None])


def lasso(
    ways: Ways, enabled: Mapping[int, int], lost: Sequence[bool] | None, queues: Queues
) -> Lasso | None:
    """The fair round that is reached first, if there is any; else the first lost state.

    ``ways`` leaves out optional steps and those that make progress; ``enabled`` is for each of its
    states the mask of the tasks that can step there, optional ones left out. ``lost`` flags the
    states from which no end is reached; if there are any, the round must be among them.
    """
    first: int | None = None
    judged = [ways]
    while judged:
        for inside in _parts(judged.pop()):
            start = min(inside)
            sooner = (first is None or start < first) and (lost is None or lost[start])
            stepping = _stepping(inside)
            if not sooner or not _is_fair(inside, enabled, stepping):
                continue
            rest = _without_overtaking(start, inside, queues, stepping)
            if rest is inside:
                first, within = start, inside
            else:
                judged.append(rest)
    if first is None:
        return None if lost is None else Lasso(lost.index(True), (), is_lost=True)
    return Lasso(first, _round(first, within, enabled, queues), is_lost=lost is not None)


def _parts(ways: Ways) -> Iterator[Ways]:
    """The strongly connected components, each with the ways that stay in it."""
    for part in components({state: [way.target for way in ways[state]] for state in ways}):
        yield {state: [way for way in ways[state] if way.target in part] for state in part}


def _is_fair(inside: Ways, enabled: Mapping[int, int], stepping: int) -> bool:
    """Whether every task that can always step in a component is among those that do."""
    always = -1
    for state in inside:
        always &= enabled[state]
    return not always & ~stepping


def _stepping(inside: Ways) -> int:
    """The mask of the tasks that step in a component."""
    stepping = 0
    for out in inside.values():
        for way in out:
            stepping |= 1 << way.task
    return stepping


def _without_overtaking(start: int, inside: Ways, queues: Queues, stepping: int) -> Ways:
    """A component without steps that take a lock for which a task waits that never steps in it.

    As that one never steps, it waits for the same lock in all states. The very component if there
    is no such step.
    """
    awaited = [lock for task, lock in queues.awaited(start).items() if not stepping >> task & 1]
    edges = dict.fromkeys([way.edge for out in inside.values() for way in out])
    overtaking = {edge: None for edge in edges if any(x in awaited for x in queues.taken(edge))}
    if not overtaking:
        return inside
    return {
        state: [way for way in out if way.edge not in overtaking] for state, out in inside.items()
    }


def _round(start: int, inside: Ways, enabled: Mapping[int, int], queues: Queues) -> tuple[Way, ...]:
    """From ``start`` and back, past what each task needs: its step, or a state where it has none.

    Who takes locks in the component must step, so that it is not overtaken while it waits. The
    nearest first, so it is short, but maybe not shortest.
    """
    queuing = 0
    for way in [way for out in inside.values() for way in out if queues.taken(way.edge)]:
        queuing |= 1 << way.task
    needed, at, taken = enabled[start] | queuing, start, list[Way]()
    due = {state: enabled[state] | queuing for state in inside}
    while needed:
        taken += _nearest(at, inside, partial(_meets, needed, due))
        at = taken[-1].target
        needed &= ~(1 << taken[-1].task) & due[at]
    if at != start or not taken:
        taken += _nearest(at, inside, lambda way: way.target == start)
    return tuple(taken)


def _meets(needed: int, due: Mapping[int, int], way: Way) -> bool:
    return bool(needed & (1 << way.task | ~due[way.target]))


def _nearest(at: int, ways: Ways, wanted: Callable[[Way], bool]) -> list[Way]:
    """The shortest path that ends with a wanted step; there must be one."""
    before: dict[int, tuple[int, Way] | None] = {at: None}
    queue = deque([at])
    while True:
        state = queue.popleft()
        for way in ways[state]:
            if wanted(way):
                path, back = [way], before[state]
                while back is not None:
                    path.append(back[1])
                    back = before[back[0]]
                return path[::-1]
            if way.target not in before:
                before[way.target] = state, way
                queue.append(way.target)


def components(following: Mapping[N, Collection[N]]) -> Iterator[frozenset[N]]:
    """The strongly connected components that have a cycle. Nodes without an entry lead nowhere."""
    index: dict[N, int] = {}
    low: dict[N, int] = {}
    open_nodes: dict[N, None] = {}
    for root in following:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        open_nodes[root] = None
        walk = [(root, iter(following[root]))]
        while walk:
            node, rest = walk[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    open_nodes[other] = None
                    walk.append((other, iter(following.get(other, ()))))
                    break
                if other in open_nodes:
                    low[node] = min(low[node], index[other])
            else:
                walk.pop()
                if walk:
                    low[walk[-1][0]] = min(low[walk[-1][0]], low[node])
                if low[node] == index[node]:
                    component: list[N] = []
                    while not component or component[-1] != node:
                        component.append(open_nodes.popitem()[0])
                    if len(component) > 1 or node in following.get(node, ()):
                        yield frozenset(component)


# --- findings ---


def is_livelock(finding: Finding) -> bool:
    """Whether no single step shows it."""
    return finding.code.startswith("livelock/")


def livelock(
    world: World,
    pending: Sequence[Op | None],
    first: int,
    round_: Sequence[tuple[int, Op]],
    *,
    is_lost: bool,
) -> Finding:
    """A round of tasks and their ops that begins after ``first`` steps with those ops pending."""
    if is_lost:
        return _inescapable(world, pending, first, round_)
    return Finding(
        code="livelock/fair",
        message=f"{_repeats(first, len(round_))}, passing nobody over, and no foreground task gets "
        f"on: {'; '.join(_who(world, pending, round_))}",
        rule="where no task is passed over for ever that could always step or is next in the queue "
        "of a lock, a foreground task ends or reaches a goal in the end",
        source="Lehmann, Pnueli, Stavi, Impartiality, Justice and Fairness (1981)",
        cells=_cells(round_),
    )


def _inescapable(
    world: World, pending: Sequence[Op | None], first: int, round_: Sequence[tuple[int, Op]]
) -> Finding:
    """A state from which no quiet state can be reached, although it is no deadlock."""
    who: Iterable[str]
    if round_:
        what = f"{_repeats(first, len(round_))}, and no quiet state can be reached from there"
        who = _who(world, pending, round_)
    else:
        what = "no quiet state can be reached from here"
        who = [
            f"{task.name}: {op.describe()}"
            for task, op in zip(world.tasks, pending, strict=True)
            if op is not None and task.kind is not TaskKind.OPTIONAL
        ]
    return Finding(
        code="livelock/inescapable",
        message=f"{what}: {'; '.join(who)}",
        rule="from every state, quiet can be reached without optional steps",
        source="the definition of quiet",
        cells=_cells(round_),
    )


def _repeats(first: int, steps: int) -> str:
    if steps == 1:
        return f"step {first + 1} repeats for ever"
    return f"the steps {first + 1} to {first + steps} repeat for ever"


def _who(
    world: World, pending: Sequence[Op | None], round_: Sequence[tuple[int, Op]]
) -> Iterator[str]:
    """Who goes round, and who waits meanwhile."""
    for task, op in zip(world.tasks, pending, strict=True):
        done = [doing.describe() for number, doing in round_ if number == task.index]
        ops = list(dict.fromkeys(done))
        if ops:
            more = " ..." if len(ops) > OPS_SHOWN else ""
            yield f"{task.name} goes round ({', '.join(ops[:OPS_SHOWN])}{more})"
        elif op is not None and task.kind is not TaskKind.OPTIONAL:
            yield f"{task.name} {waiting(op)}"


def _cells(round_: Sequence[tuple[int, Op]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([cell.name for _, op in round_ for cell in op.cells]))
