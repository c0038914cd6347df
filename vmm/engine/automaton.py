"""Tasks as learned automata: the real coroutine runs only where the table has a gap.

With all shared state in cells and all actions through ops, a task's local state and the result of
its pending op fix its next op and its next local state. An automaton learns that step by step and
fuses it with the effect of the op: (local state, values of the cells that the op names) gives its
edges. A search then works on small integers and resumes a coroutine once for each edge.

A coroutine cannot be copied. To take a second way out of a local state, a fresh one is fed the
results that led there. The coroutines at the newest local states are kept, so that a straight line
costs one resumption an edge, however long it is.

Two witnesses: a local state that is reached by a second history is followed from there as well, and
both must agree. If they do not, the task keeps something that its local state does not show.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from vmm.engine.capture import Registry, Remembered, capture, close, self_test, value_key
from vmm.engine.events import Event, resolve
from vmm.engine.live import foreign_await
from vmm.engine.ops import Choose, Op
from vmm.errors import CaptureRefused, ForeignAwait, Nondeterminism, UsageError

if TYPE_CHECKING:
    from vmm.engine.task import Program, Task
    from vmm.engine.world import World

ENDED = -1
"""The local state of a task that has returned."""

COROUTINES_KEPT = 512
"""Suspended coroutines that one automaton keeps, about a kilobyte each."""

SAMPLED = 16
"""Without ``witnesses``, one local state in so many is still checked from a second history."""


class Values:
    """Immutable values as small ids. Types count: 1, True and 1.0 are three values."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._ids: dict[Hashable, int] = {}
        self._values: list[Any] = []

    def __len__(self) -> int:
        return len(self._values)

    def intern(self, value: Any, where: str = "a value") -> int:
        """The id of ``value``; ``where`` names it if it cannot have one."""
        plain = value.__class__ is int or value.__class__ is str or value is None
        key = value if plain else self._key(value, where)
        found = self._ids.setdefault(key, len(self._values))
        if found == len(self._values):
            self._values.append(value)
        return found

    def value(self, number: int) -> Any:
        """The value of that id: the first one of its kind that was interned."""
        return self._values[number]

    def _key(self, value: Any, where: str) -> Hashable:
        try:
            hash(value)
        except TypeError:
            raise CaptureRefused(
                f"{where}: a {type(value).__qualname__} that can change cannot be shared between "
                "tasks; use a tuple or a frozen record"
            ) from None
        return value_key(value, self._registry, where)


def op_key(op: object, world: World, task: Task) -> Hashable:
    """The same for two ops that do the same; None if it is no op."""
    if not isinstance(op, Op):
        return None
    operands, rest = op.operands(), None
    if operands or op.event is not None:
        where = f"{op.describe()} of task {task.name}"
        rest = value_key((operands, op.event), world.registry, where)
    return type(op), tuple([cell.index for cell in op.cells]), rest


class Edge(NamedTuple):
    """One way in which a pending op comes out, with where that takes its task.

    ``branch`` is None unless the op is a choice; ``writes`` are the cells that change, as (cell
    index, new value id); ``following`` is the next local state, or ``ENDED``.
    """

    branch: int | None
    result: Any
    writes: tuple[tuple[int, int], ...]
    following: int
    events: tuple[Event, ...]


class _Arrival(NamedTuple):
    """How a local state was reached: from ``source``, by its first or second history."""

    source: int
    history: int
    result: Any


class _Waiting(NamedTuple):
    """A suspended coroutine, the op that it has published, and its last capture."""

    program: Program
    op: Op
    remembered: Remembered


class Automaton:
    """One task of a world as a table that fills itself in.

    ``ops[local]`` is the pending op of a local state, ``cells[local]`` the indexes of the cells
    that it names, ``start`` the first local state. Sparse cells may be made while this learns, so
    an index may lie beyond the cells that the world had before: such a cell is still initial.
    """

    def __init__(self, task: Task, values: Values, world: World, *, witnesses: bool = True) -> None:
        require_capture()
        self.task = task
        self.ops: list[Op] = []
        self.cells: list[tuple[int, ...]] = []
        self._values = values
        self._results = Values(world.registry)
        self._world = world
        self._stride = 1 if witnesses else SAMPLED
        self._ids: dict[Hashable, int] = {}
        self._edges: list[dict[tuple[int, ...], tuple[Edge, ...]]] = []
        self._following: list[dict[int, int]] = []
        self._arrivals: list[list[_Arrival | None]] = []
        self._op_keys: list[Hashable] = []
        self._kept: OrderedDict[tuple[int, int], _Waiting] = OrderedDict()
        self._doubts: list[tuple[int, int]] = []
        program = task.start()
        self._function = getattr(program, "__qualname__", task.name)
        self.start = self._advance(program, [], None)

    def close(self) -> None:
        """Discard the coroutines that are kept; what was learned stays."""
        while self._kept:
            close(self._kept.popitem()[1].program)

    def expand(self, local: int, found: tuple[int, ...]) -> tuple[Edge, ...]:
        """The edges of a local state for the value ids in its cells; none if it is disabled."""
        edges = self._edges[local].get(found)
        if edges is None:
            edges = self._edges[local][found] = self._learn(local, found)
        return edges

    # --- effects: what the pending op does ---

    def _learn(self, local: int, found: tuple[int, ...]) -> tuple[Edge, ...]:
        op, cells = self._op_at(local), self.cells[local]
        before = dict(zip(cells, found, strict=True))
        memory = {cell: self._values.value(number) for cell, number in before.items()}
        if not op.enabled(memory, self.task.index):
            return ()
        if isinstance(op, Choose):
            return tuple([self._edge(local, n, n, ()) for n in range(op.branches)])
        result, _ = op.run(memory, self.task.index)
        after = {
            cell: self._values.intern(value, f"cell {self._world.cells[cell].name}")
            for cell, value in memory.items()
        }
        writes = tuple([(cell, n) for cell, n in after.items() if n != before[cell]])
        return (self._edge(local, None, result, writes),)

    def _edge(
        self, local: int, branch: int | None, result: Any, writes: tuple[tuple[int, int], ...]
    ) -> Edge:
        events = resolve(self._op_at(local).event, result)
        return Edge(branch, result, writes, self._follow(local, result), events)

    def _op_at(self, local: int) -> Op:
        """The pending op as it was published.

        Its functions may close over variables that its coroutine has changed since, when it went
        on; then the op of another coroutine, one that waits there, takes its place.
        """
        op = self.ops[local]
        try:
            intact = self._op_key(op) == self._op_keys[local]
        except CaptureRefused:
            intact = False
        if not intact:
            waiting = self._waiting_at(local, 0)
            self._keep(local, 0, waiting)
            op = self.ops[local] = waiting.op
        return op

    # --- local states: what the task does next ---

    def _follow(self, local: int, result: Any) -> int:
        number = self._results.intern(result, f"the result of {self.ops[local].describe()}")
        following = self._following[local].get(number)
        if following is None:
            following = self._resume(_Arrival(local, 0, result))
            self._following[local][number] = following
            if len(self._arrivals[local]) > 1:
                self._doubts.append((local, number))
            self._settle_doubts()
        return following

    def _settle_doubts(self) -> None:
        """Take the edges of local states that have a second history from there as well."""
        while self._doubts:
            local, number = self._doubts.pop()
            expected = self._following[local][number]
            reached = self._resume(_Arrival(local, 1, self._results.value(number)))
            if reached != expected:
                raise self._two_ways(local, expected, reached)

    def _resume(self, arrival: _Arrival) -> int:
        """Let a coroutine at the source of ``arrival`` go on; gives the local state it gets to."""
        waiting = self._waiting_at(arrival.source, arrival.history)
        return self._advance(waiting.program, waiting.remembered, arrival)

    def _waiting_at(self, local: int, history: int) -> _Waiting:
        """A coroutine at a local state: one that was kept, or a fresh one that is led there."""
        kept = self._kept.pop((local, history), None)
        if kept is not None:
            return kept
        program = self.task.start()
        op = self._send(program, None)
        for result in self._results_to(local, history):
            if op is None:
                break
            op = self._send(program, result)
        if op is None:
            raise self._two_ways(local, local, ENDED)
        remembered: Remembered = []
        if self._ids.get(self._key(program, op, remembered)) != local:
            close(program)
            raise self._two_ways(local, local, op)
        return _Waiting(program, op, remembered)

    def _results_to(self, local: int, history: int) -> list[Any]:
        results = []
        while (arrival := self._arrivals[local][history]) is not None:
            results.append(arrival.result)
            local, history = arrival.source, arrival.history
        return results[::-1]

    def _advance(self, program: Program, remembered: Remembered, arrival: _Arrival | None) -> int:
        """Resume ``program``; number the local state, and keep the coroutine if it is of use."""
        op = self._send(program, arrival and arrival.result)
        if op is None:
            return ENDED
        key = self._key(program, op, remembered)
        local = self._ids.setdefault(key, len(self.ops))
        if local == len(self.ops):
            self._add(op, key[1], arrival)
            self._keep(local, 0, _Waiting(program, op, remembered))
        elif len(self._arrivals[local]) == 1 and local % self._stride == 0:
            self._arrivals[local].append(arrival)
            self._doubts.extend([(local, number) for number in self._following[local]])
            self._keep(local, 1, _Waiting(program, op, remembered))
        else:
            close(program)
        return local

    def _add(self, op: Op, op_key: Hashable, arrival: _Arrival | None) -> None:
        self.ops.append(op)
        self.cells.append(tuple([cell.index for cell in op.cells]))
        self._op_keys.append(op_key)
        self._edges.append({})
        self._following.append({})
        self._arrivals.append([arrival])

    def _keep(self, local: int, history: int, waiting: _Waiting) -> None:
        self._kept[local, history] = waiting
        if len(self._kept) > COROUTINES_KEPT:
            close(self._kept.popitem(last=False)[1].program)

    # --- coroutines ---

    def _send(self, program: Program, result: Any) -> Op | None:
        """The op that ``program`` publishes next, or None if it returns."""
        try:
            op = program.send(result)
            if self.task.through is not None:
                op = self.task.through(op)
        except StopIteration:
            return None
        if not isinstance(op, Op):
            message = foreign_await(self.task, program, op)
            close(program)
            raise ForeignAwait(message)
        return op

    def _key(self, program: Program, op: Op, remembered: Remembered) -> tuple[Hashable, Hashable]:
        """The local state: what the coroutine holds, and the op it waits at."""
        registry = self._world.registry
        try:
            own = self._op_key(op)  # a frame that publishes it holds it, too
            held = capture(
                program,
                registry,
                op_key=lambda value: own if value is op else self._op_key(value),
                remembered=remembered,
            )
        except BaseException:
            close(program)
            raise
        return held, own

    def _op_key(self, op: object) -> Hashable:
        return op_key(op, self._world, self.task)

    # --- what went wrong ---

    def _two_ways(self, local: int, expected: int, reached: int | Op) -> Nondeterminism:
        ops = [self._op_named(expected), self._op_named(reached)]
        then = " or to ".join(ops) if ops[0] != ops[1] else f"{ops[0]} with other locals"
        return Nondeterminism(
            f"task {self.task.name} is not deterministic: function {self._function} comes from "
            f"{self.ops[local].describe()!r} to {then}, though nothing that it may look at differs;"
            " let it compute on its own locals only (no globals, clocks, random numbers or shared "
            "objects)"
        )

    def _op_named(self, found: int | Op) -> str:
        if isinstance(found, Op):
            return repr(found.describe())
        return "its end" if found == ENDED else repr(self.ops[found].describe())


@functools.cache
def require_capture() -> None:
    """Refuse to search where the interpreter does not show what a capture needs."""
    hidden = self_test()
    if hidden is not None:
        raise UsageError(hidden)
