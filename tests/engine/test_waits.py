"""Who waits for what, as a deadlock is told."""

from __future__ import annotations

from vmm.engine.hosts import driver
from vmm.engine.live import Run
from vmm.engine.ops import wait_until
from vmm.engine.task import TaskKind
from vmm.engine.trace import Ending
from vmm.engine.world import World
from vmm.strategies.round_robin import SPEC


def told(world: World) -> tuple[str, tuple[str, ...]]:
    assert SPEC.make is not None
    outcome = driver("direct")(Run(world, SPEC.make(0)))
    assert outcome.ending is Ending.DEADLOCK
    (finding,) = outcome.findings
    return finding.message.removeprefix("nothing can move: "), finding.cells


def test_a_cycle_of_locks_is_named_and_others_are_not_in_it() -> None:
    world = World()
    locks = [world.lock(name) for name in "abc"]
    ready = world.cell("ready", 0)

    async def takes(first: int, second: int) -> None:
        async with locks[first]:
            await wait_until(ready, bool)
            async with locks[second]:
                pass

    async def lets_go() -> None:
        await ready.set(1)
        await locks[0].acquire()

    for first, second in ((0, 1), (1, 2), (2, 0)):
        world.task(f"t{first}", takes, first, second)
    world.task("t3", lets_go)
    message, cells = told(world)
    assert message == (
        "t0 waits to acquire b, held by t1; t1 waits to acquire c, held by t2; "
        "t2 waits to acquire a, held by t0; t3 waits to acquire a, held by t0; "
        "a cycle: t0 -> t1 -> t2 -> t0"
    )
    assert cells == ("b", "c", "a")


def test_values_that_are_waited_for_are_shown() -> None:
    world = World()
    flag = world.cell("flag", 0, format=lambda value: "up" if value else "down")
    lock = world.lock("lock")

    async def waits() -> None:
        async with lock:
            await wait_until(flag, bool)

    async def sets() -> None:
        async with lock:
            await flag.set(1)

    async def idles() -> None:
        await wait_until(flag, bool)

    world.task("one", waits)
    world.task("two", sets)
    world.task("idles", idles, kind=TaskKind.OPTIONAL)
    assert told(world)[0] == (
        "one waits for flag (flag is down); two waits to acquire lock, held by one"
    )


def test_a_lock_that_is_never_given_back() -> None:
    world = World()
    lock = world.lock("lock")

    async def takes() -> None:
        await lock.acquire()

    world.task("keeps", takes)
    world.task("wants", takes)
    assert told(world)[0] == "wants waits to acquire lock, held by keeps, which has ended"


def test_a_task_that_takes_its_lock_again() -> None:
    world = World()
    lock = world.lock("lock")

    async def twice() -> None:
        await lock.acquire()
        await lock.acquire()

    world.task("it", twice)
    assert told(world)[0] == "it waits to acquire lock, held by itself"
