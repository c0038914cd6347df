"""Store buffers: what goes through them, what waits for them, and when events are said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.engine.pickers import Seeded
from vmm.engine import ops
from vmm.engine.cells import Cell, Guard
from vmm.engine.events import AuditPoint, Goal
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.live import Run
from vmm.engine.monitor import Finding, Monitor
from vmm.engine.task import TaskKind
from vmm.engine.tso import (
    STORE_BUFFER_ENTRIES,
    Buffered,
    Drain,
    Entry,
    Locked,
    Peek,
    Processor,
    add_store_buffers,
    bare,
    drain,
)
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.monitors import lock_guard
from vmm.search import exhaustive, reference

TASK = 4
WORLD = World()
A, B = WORLD.cell("a", 1), WORLD.cell("b", 2)
REGISTER = WORLD.cell("register", 0, buffered=False)
LOCK = WORLD.lock("lock")
SPTE = WORLD.cell("spte", 0, guard=Guard.WRITE, lock=LOCK)
LIST: Cell[Any] = WORLD.cell("list", (), guard=Guard.FULL, lock=LOCK)
BUFFER: Cell[tuple[Entry, ...]] = WORLD.cell("buffer", (), buffered=False)


def store(cell: Cell[Any], value: Any) -> Entry:
    return Entry((cell,), (value,), ())


def carried(awaited: Awaitable[Any]) -> ops.Op:
    """What a processor does for the op that awaiting something publishes."""

    async def waits() -> None:
        await awaited

    program = waits()
    op: ops.Op = Processor(BUFFER)(program.send(None))
    program.close()
    return op


def memory(*pending: Entry, **changes: Any) -> dict[int, Any]:
    values = {cell.name: cell.initial for cell in WORLD.cells} | changes | {"buffer": pending}
    return {cell.index: values[cell.name] for cell in WORLD.cells}


def run(op: ops.Op, *pending: Entry, **changes: Any) -> tuple[Any, dict[str, Any]]:
    """The result of an op, and what it changed."""
    before, after = memory(*pending, **changes), memory(*pending, **changes)
    assert op.enabled(after, TASK)
    result, _ = op.run(after, TASK)
    changed = {c.name: after[c.index] for c in WORLD.cells if after[c.index] != before[c.index]}
    assert set(changed) <= {cell.name for cell in op.written}
    assert {cell.name for cell in op.written} <= {cell.name for cell in op.cells}
    return result, changed


def plus(value: int, amount: int) -> tuple[int, int]:
    return value + amount, value


def swap(a: int, b: int) -> tuple[tuple[int, int], int]:
    return (b, a), a


# --- what becomes of each op ---


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: A, Buffered),
        (lambda: A.set(7), Buffered),
        (lambda: A.set(7, serialising=True), Locked),
        (lambda: A.cas(1, 7), Locked),
        (lambda: A.update(plus, 1), Locked),
        (lambda: ops.atomically(swap, (A, B)), Locked),
        (lambda: ops.atomically(swap, (A, REGISTER)), Locked),
        (lambda: ops.atomically(lambda a, r: ((r,), a), (REGISTER,), reads=(A,)), Buffered),
        (lambda: ops.observe(lambda a, b: a + b, (A, B)), Buffered),
        (lambda: ops.wait_until(A, bool), Buffered),
        (LOCK.acquire, Locked),
        (LOCK.release, Buffered),
        (ops.fence, Locked),
        (lambda: SPTE.set(7), Buffered),
        (lambda: SPTE.update(plus, 1), Buffered),
        (lambda: SPTE.cas(0, 1), Locked),
        (lambda: ops.atomically(swap, (SPTE, LIST)), Buffered),
        (lambda: LIST, None),
        (lambda: LIST.update(plus, 1), None),
        (lambda: REGISTER, None),
        (lambda: REGISTER.set(7), None),
        (lambda: REGISTER.set(7, serialising=True), Locked),
        (lambda: REGISTER.update(plus, 1), Locked),
        (lambda: ops.choose(2), None),
        (lambda: ops.mark("goal"), None),
    ],
)
def test_what_a_processor_does(make: Callable[[], Awaitable[Any]], kind: type | None) -> None:
    op = carried(make())
    assert (type(op) if op is not bare(op) else None) is kind
    assert op.describe() == bare(op).describe()


def test_what_is_no_op_is_left_to_the_engine() -> None:
    assert Processor(BUFFER)(None) is None


# --- one op by itself ---


def test_a_store_goes_into_the_buffer_only() -> None:
    assert run(carried(A.set(7)), store(B, 5)) == (None, {"buffer": (store(B, 5), store(A, 7))})


def test_a_load_sees_the_newest_own_store() -> None:
    pending = (store(A, 5), store(B, 6), store(A, 7))
    assert run(carried(A.read()), *pending) == (7, {})
    assert run(carried(B.read()), *pending) == (6, {})
    assert run(carried(A.read())) == (1, {})
    assert run(carried(ops.observe(plus, (A,), 3)), *pending)[0] == (10, 7)
    assert run(carried(ops.wait_until((A, B), lambda a, b: a > b)), *pending)[0] == (7, 6)


def test_a_wait_is_judged_by_what_its_processor_sees() -> None:
    waits = carried(ops.wait_until(A, lambda a: a == 7))
    assert not waits.enabled(memory(), TASK)
    assert waits.enabled(memory(store(A, 7)), TASK)


def test_a_full_buffer_blocks_stores_not_loads() -> None:
    full = (store(B, 0),) * STORE_BUFFER_ENTRIES
    assert not carried(A.set(7)).enabled(memory(*full), TASK)
    assert carried(A.set(7)).enabled(memory(*full[1:]), TASK)
    assert carried(A.read()).enabled(memory(*full), TASK)


@pytest.mark.parametrize(
    "make", [ops.fence, LOCK.acquire, lambda: A.update(plus, 1), lambda: REGISTER.update(plus, 1)]
)
def test_what_is_locked_waits_for_an_empty_buffer(make: Callable[[], Awaitable[Any]]) -> None:
    op = carried(make())
    assert not op.enabled(memory(store(B, 5)), TASK)
    assert op.enabled(memory(), TASK)


def test_a_locked_op_acts_on_memory() -> None:
    assert run(carried(A.update(plus, 5))) == (1, {"a": 6})
    assert not carried(LOCK.acquire()).enabled(memory(lock=9), TASK)


def test_a_release_is_a_plain_store_with_its_audit() -> None:
    op = carried(LOCK.release(event=AuditPoint("released")))
    entry = Entry((LOCK,), (0,), (AuditPoint("released"),))
    assert op.event is None
    assert run(op, lock=TASK + 1) == (None, {"buffer": (entry,)})


def test_a_release_of_what_is_not_held_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="releases lock, which is free"):
        carried(LOCK.release()).run(memory(store(LOCK, 0), lock=TASK + 1), TASK)


def test_what_only_the_holder_may_touch_is_stored_at_once() -> None:
    op = carried(ops.atomically(lambda s, x: ((8, (*x, s)), s), (SPTE, LIST)))
    assert run(op, store(SPTE, 5)) == (
        5,
        {"buffer": (store(SPTE, 5), store(SPTE, 8)), "list": (5,)},
    )


def test_a_drain_takes_the_oldest_store_and_says_its_events() -> None:
    oldest = Entry((A, B), (5, 6), (Goal("stored"),))
    op = Drain((A, B), BUFFER)
    drained, changed = run(op, oldest, store(B, 9))
    assert changed == {"a": 5, "b": 6, "buffer": (store(B, 9),)}
    assert (drained.events, drained.following) == ((Goal("stored"),), (B,))
    assert op.event(drained) == (Goal("stored"),)  # type: ignore[misc, operator]
    assert run(Drain((B,), BUFFER), store(B, 9))[0].following == ()


def test_a_peek_names_the_oldest_cells() -> None:
    assert run(Peek(BUFFER), store(B, 9), store(A, 1)) == ((B,), {})
    assert not Peek(BUFFER).enabled(memory(), TASK)


# --- worlds ---


def test_each_program_gets_a_buffer_and_hardware_none() -> None:
    world = World()
    x, said = world.cell("x", 0), world.cell("said", 0)

    async def program() -> None:
        await x.set(1)

    async def hardware() -> None:
        await said.set(1)

    world.task("p", program)
    world.task("d", program, kind=TaskKind.DAEMON)
    world.task("h", hardware, kind=TaskKind.EVENTUAL)
    add_store_buffers(world)
    assert [task.name for task in world.tasks] == ["p", "d", "h", "p drains", "d drains"]
    assert [task.through is not None for task in world.tasks] == [True, True, False, False, False]


def test_an_interrupt_waits_until_the_buffer_is_empty() -> None:
    """Whoever sees that it was delivered sees what its target stored before."""
    world = World()
    x, taken = world.cell("x", 0), world.cell("taken", 0, buffered=False)
    seen = world.cell("seen", 9, buffered=False)
    ready = world.cell("ready", 0, buffered=False)

    async def target() -> None:
        await x.set(1)
        await ready.set(1)

    async def delivers() -> None:
        await ops.wait_until(ready, bool)
        await taken.set(1)

    async def sender() -> None:
        await ops.wait_until(taken, bool)
        await seen.set(await x)

    world.task("target", target)
    hardware = world.task("ipi", delivers, kind=TaskKind.EVENTUAL)
    world.task("sender", sender)
    add_store_buffers(world, {hardware.index: 0})
    result = exhaustive.search(world)
    assert {end["seen"] for end in result.terminal} == {1}


def test_lock_and_plain_release_keep_order() -> None:
    """Two holders in turn: the second one sees all that the first one stored, audited in memory."""

    class NeverOdd(Monitor):
        name = "audit/even"
        events = (AuditPoint,)

        def on_event(self, state: Any, event: Any, step: Any, view: Any) -> Any:
            odd = view[x] != view[y] or view[x] % 2
            return state, ((Finding("audit/even", f"{view[x]} {view[y]}", "", ""),) if odd else ())

    world = World()
    lock = world.lock("lock", release_event=AuditPoint("released"))
    x = world.cell("x", 0, guard=Guard.WRITE, lock=lock)
    y = world.cell("y", 0, guard=Guard.WRITE, lock=lock)

    async def holder() -> None:
        async with lock:
            for cell in (x, y, x, y):
                await cell.set(await cell + 1)

    world.task("one", holder)
    world.task("two", holder)
    world.monitors.append(NeverOdd())
    guard = lock_guard.SPEC.build(world, None)
    assert guard is not None
    world.monitors.append(guard)
    add_store_buffers(world)
    result = exhaustive.search(world)
    assert not result.findings
    assert [(end["x"], end["y"]) for end in result.terminal] == [(4, 4)]
    slow = reference.search(world)
    assert (result.states, result.transitions) == (slow.states, slow.transitions)


def test_an_unguarded_store_is_judged_when_it_is_issued() -> None:
    world = World()
    lock = world.lock("lock")
    x = world.cell("x", 0, guard=Guard.WRITE, lock=lock)

    async def careless() -> None:
        await x.set(1)

    world.task("careless", careless)
    guard = lock_guard.SPEC.build(world, None)
    assert guard is not None
    world.monitors.append(guard)
    add_store_buffers(world)
    result = exhaustive.search(world)
    assert [finding.code for finding in result.findings] == ["lock/unguarded"]
    assert result.schedule is not None
    assert result.schedule.tasks == b""


def test_a_lock_is_given_back_where_its_release_is_issued() -> None:
    """The release may still be in the buffer, where no other task can see it."""
    world = World()
    lock = world.lock("lock")
    x = world.cell("x", 0, guard=Guard.FULL, lock=lock)

    async def late() -> None:
        async with lock:
            await x.set(1)
        await x.set(2)

    world.task("late", late)
    guard = lock_guard.SPEC.build(world, None)
    assert guard is not None
    world.monitors.append(guard)
    add_store_buffers(world)
    for search in (exhaustive.search, reference.search):
        result = search(world)
        assert [finding.code for finding in result.findings] == ["lock/unguarded"]
    assert exhaustive.search(world, reduce=True).findings


def dekker() -> World:
    world = World("dekker")
    x, y = world.cell("x", 0), world.cell("y", 0)
    seen = world.array("seen", 9, buffered=False)

    async def stores_then_loads(mine: Any, other: Any, number: int) -> None:
        await mine.set(1, event=Goal(f"stored {number}"))
        await seen[number].set(await other)

    world.task("p0", stores_then_loads, x, y, 0)
    world.task("p1", stores_then_loads, y, x, 1)
    world.goals = ("stored 0", "stored 1")
    add_store_buffers(world)
    return world


def test_hosts_agree_under_store_buffers() -> None:
    for seed in range(20):
        outcomes = [driver(host)(Run(dekker(), Seeded(seed))) for host in HOSTS]
        assert len({outcome.digest for outcome in outcomes}) == 1
        assert all(all(outcome.goals.values()) for outcome in outcomes)


def test_nothing_is_left_in_a_buffer_at_the_end() -> None:
    result = exhaustive.search(dekker())
    assert {(end["x"], end["y"]) for end in result.terminal} == {(1, 1)}
    assert all(result.goals.values())
    both = [(end["seen[0]"], end["seen[1]"]) for end in result.terminal]
    assert sorted(both) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_drain_program_never_ends() -> None:
    program = drain(BUFFER)
    assert isinstance(program.send(None), Peek)
    assert program.send((A,)).cells == (A, BUFFER)
    program.close()
