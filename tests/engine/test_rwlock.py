"""Readers-writer locks: who may have one, what that permits, and how a deadlock tells of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.engine.test_waits import told
from vmm.engine.cells import Guard
from vmm.engine.events import AuditPoint
from vmm.engine.hosts import driver
from vmm.engine.live import Run
from vmm.engine.ops import wait_until
from vmm.engine.rwlock import RwLock, make_rwlock
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.monitors import lock_guard
from vmm.search import exhaustive, reference
from vmm.search.result import Result
from vmm.strategies.round_robin import SPEC


def counted(readers: int, writers: int) -> World:
    """Readers that must see one value, writers that change it twice."""
    world = World()
    lock = make_rwlock(world, "lock", release_event=AuditPoint("lock released"))
    cell = world.cell("cell", 0, guard=Guard.FULL, lock=lock)
    torn = world.cell("torn", 0)
    together = world.cell("together", 0)
    inside = world.cell("inside", 0)

    async def reads() -> None:
        await lock.acquire_shared()
        if await inside.update(lambda n: (n + 1, n)):
            await together.set(1)
        if await cell != await cell:
            await torn.set(1)
        await inside.update(lambda n: (n - 1, None))
        await lock.release_shared()

    async def writes() -> None:
        async with lock:
            await cell.set(1)
            await cell.set(2)

    for number in range(readers):
        world.task(f"r{number}", reads)
    for number in range(writers):
        world.task(f"w{number}", writes)
    return world


def contents(result: Result) -> set[tuple[object, object]]:
    return {(content["torn"], content["together"]) for content in map(dict, result.terminal)}


@pytest.mark.parametrize("readers", [1, 2])
def test_readers_come_together_and_a_writer_never_comes_between(readers: int) -> None:
    both = [search.search(counted(readers, 1)) for search in (reference, exhaustive)]
    assert both[0].states == both[1].states
    for result in both:
        assert contents(result) == ({(0, 0)} if readers == 1 else {(0, 0), (0, 1)})
        assert not result.deadlocks
    reduced = exhaustive.search(counted(readers, 1), reduce=True)
    assert contents(reduced) == contents(both[0])
    assert reduced.states < both[0].states


def run(program: Callable[[RwLock], Awaitable[None]]) -> None:
    world = World()
    lock = make_rwlock(world, "lock")

    async def does() -> None:
        await program(lock)

    world.task("t", does)
    assert SPEC.make is not None
    driver("direct")(Run(world, SPEC.make(0)))


async def shares_twice(lock: RwLock) -> None:
    await lock.acquire_shared()
    await lock.acquire_shared()


async def releases_a_share_as_the_whole(lock: RwLock) -> None:
    await lock.acquire_shared()
    await lock.release()


async def releases_the_whole_as_a_share(lock: RwLock) -> None:
    await lock.acquire()
    await lock.release_shared()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (shares_twice, "task 0 shares lock already"),
        (releases_a_share_as_the_whole, "task 0 releases lock, which is shared by task 0"),
        (releases_the_whole_as_a_share, "gives back its share of lock, which is held by task 0"),
    ],
)
def test_misuse_is_told(program: Callable[[RwLock], Awaitable[None]], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run(program)


def test_a_deadlock_names_all_who_share_and_the_cycle() -> None:
    world = World()
    lock, other = make_rwlock(world, "lock"), world.lock("other")
    here = world.cell("here", 0)

    async def shares(then: int) -> None:
        await lock.acquire_shared()
        await here.update(lambda n: (n + 1, None))
        if then:
            await other.acquire()
        else:
            await wait_until(here, lambda n: n > 3)

    async def writes() -> None:
        async with other:
            await wait_until(here, lambda n: n == 2)
            await lock.acquire()

    for then in (0, 1):
        world.task(f"t{then}", shares, then)
    world.task("t2", writes)
    # The round begins with task 0; the writer has the other lock before task 1 wants it.
    message, _ = told(world)
    assert "t2 waits to acquire lock, held by t0 and t1" in message
    assert "t1 waits to acquire other, held by t2" in message
    assert "a cycle: t1 -> t2 -> t1" in message


def guarded(*, stores: bool, further: bool | None) -> World:
    """A task that shares a lock and touches a cell, under a further lock if ``further``."""
    world = World()
    lock = make_rwlock(world, "lock")
    inner = world.lock("inner", inside=(lock,))
    cell = world.cell("cell", 0, guard=Guard.FULL, lock=lock)
    if further is not None:
        cell.shared_with = (inner,)

    async def touches() -> None:
        await lock.acquire_shared()
        if further:
            await inner.acquire()
        if stores:
            await cell.set(1)
        else:
            await cell
        if further:
            await inner.release()
        await lock.release_shared()

    world.task("t", touches)
    made = lock_guard.SPEC.build(world, None)
    assert made is not None
    world.monitors.append(made)
    return world


@pytest.mark.parametrize(
    ("stores", "further", "allowed"),
    [
        (False, None, True),
        (True, None, False),
        (False, False, False),
        (True, False, False),
        (True, True, True),
    ],
)
def test_what_a_share_permits(stores: bool, further: bool | None, allowed: bool) -> None:
    found = exhaustive.search(guarded(stores=stores, further=further)).findings
    assert [finding.code for finding in found] == ([] if allowed else ["lock/unguarded"])
