"""Grace periods: nobody has what was freed, readers nest, and a deadlock says who reads."""

from __future__ import annotations

from typing import Any

import pytest

from vmm.engine.events import Event
from vmm.engine.grace import Drained, Flip, Readers, Srcu, make_srcu
from vmm.engine.hosts import driver
from vmm.engine.live import Run
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.ops import mark, trap
from vmm.engine.trace import Ending
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.search import exhaustive, reference
from vmm.search.result import Result
from vmm.search.result import Verdict as Found
from vmm.strategies.round_robin import SPEC


class Used(Event, frozen=True):
    """A reader used a version."""

    version: int


class Freed(Event, frozen=True):
    """A writer freed a version."""

    version: int


class NotFreed(Monitor):
    """No version is used after it was freed."""

    name = "version/freed"
    events = (Used, Freed)

    def initial(self) -> tuple[int, ...]:
        return ()

    def on_event(self, state: Any, event: Event, step: Step, view: View) -> Verdict:
        del step, view
        if isinstance(event, Freed):
            return (*state, event.version), ()
        assert isinstance(event, Used)
        if event.version not in state:
            return state, ()
        return state, (Finding(self.name, f"version {event.version} is used", "", ""),)


async def waits_for_nobody(srcu: Srcu) -> None:
    await trap(Flip(srcu))


async def does_not_flip(srcu: Srcu) -> None:
    readers = await srcu
    await trap(Drained(srcu, 1 - readers.current))


async def flips_too_early(srcu: Srcu) -> None:
    """Forgets the readers of the grace period before."""
    under = await srcu.update(lambda r: (r._replace(current=1 - r.current), r.current))
    await trap(Drained(srcu, under))


def versions(readers: int, writers: int, synchronize: Any = Srcu.synchronize) -> World:
    """Readers use the version that a pointer names; writers replace it and free what was there."""
    world = World()
    srcu, pointer = make_srcu(world, "srcu"), world.cell("pointer", 0, marked=True)

    async def reads() -> None:
        under = await srcu.read_lock()
        version = await pointer
        await mark(Used(version))
        await srcu.read_unlock(under)

    async def writes(version: int) -> None:
        old = await pointer.update(lambda was: (version, was))
        await synchronize(srcu)
        await mark(Freed(old))

    for number in range(readers):
        world.task(f"reader {number}", reads)
    for number in range(writers):
        world.task(f"writer {number}", writes, number + 1)
    world.monitors.append(NotFreed())
    return world


def searched(world: World) -> Result:
    result = exhaustive.search(world)
    slow = reference.search(world)
    assert (result.verdict, result.states) == (slow.verdict, slow.states)
    return result


@pytest.mark.parametrize(("readers", "writers"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_nobody_uses_what_was_freed(readers: int, writers: int) -> None:
    result = searched(versions(readers, writers))
    assert (result.verdict, result.complete) == (Found.CLEAN, True)
    assert not result.deadlocks


@pytest.mark.parametrize(
    ("broken", "writers"), [(waits_for_nobody, 1), (does_not_flip, 1), (flips_too_early, 2)]
)
def test_without_one_step_somebody_does(broken: Any, writers: int) -> None:
    assert searched(versions(1, writers, broken)).verdict is Found.VIOLATED


def told(world: World) -> str:
    assert SPEC.make is not None
    outcome = driver("direct")(Run(world, SPEC.make(0)))
    assert outcome.ending is Ending.DEADLOCK
    return outcome.findings[0].message.removeprefix("nothing can move: ")


def test_a_deadlock_names_the_readers() -> None:
    world = World()
    srcu, lock = make_srcu(world, "srcu"), world.lock("lock")

    async def reads() -> None:
        await srcu.read_lock()
        await lock.acquire()

    async def writes() -> None:
        async with lock:
            await srcu.synchronize()

    world.task("reader", reads)
    world.task("writer", writes)
    assert told(world) == (
        "reader waits to acquire lock, held by writer; "
        "writer waits for the readers of srcu, still read by reader; "
        "a cycle: reader -> writer -> reader"
    )


def test_who_synchronizes_in_its_own_section_waits_for_itself() -> None:
    world = World()
    srcu = make_srcu(world, "srcu")

    async def reads() -> None:
        await srcu.read_lock()
        await srcu.synchronize()

    world.task("it", reads)
    assert told(world) == "it waits for the readers of srcu, still read by itself"


def test_sections_nest_across_a_flip() -> None:
    world = World()
    srcu = make_srcu(world, "srcu")
    memory: list[Any] = [Readers()]

    def do(op: Any) -> Any:
        return op.run(memory, 3)[0]

    assert do(ops_of(srcu.read_lock())) == 0
    assert do(Flip(srcu)) == 0
    assert do(ops_of(srcu.read_lock())) == 1
    assert not Flip(srcu).enabled(memory, 4), "the readers under the other index come first"
    assert not Drained(srcu, 0).enabled(memory, 4)
    do(ops_of(srcu.read_unlock(0)))
    assert Drained(srcu, 0).enabled(memory, 4)
    assert srcu.format(memory[0]) == "index 1, under 1 task 3"
    with pytest.raises(UsageError, match="leaves a read section of srcu under index 0"):
        do(ops_of(srcu.read_unlock(0)))


def ops_of(trap: Any) -> Any:
    """The op that a coroutine publishes first."""
    return trap.send(None)
