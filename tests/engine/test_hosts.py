"""Every host gives the same trace, and behaves in the loop that it runs on."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio

from tests.engine.pickers import Seeded
from tests.processes import said_elsewhere
from tests.search.random_worlds import random_world
from tests.search.worlds import notifier_retry, two_locks
from vmm.engine.cells import Cell
from vmm.engine.events import Goal
from vmm.engine.hosts import HOSTS, driver, loop
from vmm.engine.live import Run
from vmm.engine.ops import fence, mark
from vmm.engine.trace import Ending, Outcome
from vmm.engine.world import World

LOOPS = ("asyncio", "trio")

RUNNERS: dict[str, Callable[[Callable[[], Awaitable[Any]]], Any]] = {
    "asyncio": lambda main: asyncio.run(_as_coroutine(main)),
    "trio": trio.run,
}


async def _as_coroutine(main: Callable[[], Awaitable[Any]]) -> Any:
    return await main()


def same(outcome: Outcome) -> tuple[Any, ...]:
    return outcome.ending, outcome.digest, outcome.tasks, outcome.branches, outcome.findings


# --- one trace ---


@pytest.mark.parametrize("seed", range(40))
def test_same_trace_on_every_host(seed: int) -> None:
    world, source = random_world(seed)
    outcomes = [driver(host)(Run(world, Seeded(seed))) for host in HOSTS]
    assert same(outcomes[0]) == same(outcomes[1]) == same(outcomes[2]), source


class Seen(Goal, frozen=True):
    """A goal of a kind of its own."""


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("monitors", [False, True])
def test_goals_of_every_kind_are_noted(host: str, monitors: bool) -> None:
    world = World()
    world.goals = ("there",)

    async def marks() -> None:
        await mark(Seen("there"))

    world.task("marks", marks)
    run = Run(world, Seeded(0), monitors=monitors)
    assert driver(host)(run).goals == {"there": True}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("world", [lambda: notifier_retry(3, guard=False), two_locks])
def test_same_trace_of_worlds_with_findings(world: Callable[[], World], seed: int) -> None:
    outcomes = [driver(host)(Run(world(), Seeded(seed))) for host in HOSTS]
    assert same(outcomes[0]) == same(outcomes[1]) == same(outcomes[2])


DIGESTS = """
import json
from tests.engine.test_hosts import digests
print(json.dumps(digests()))
"""


def digests() -> list[str]:
    worlds = [*[random_world(seed)[0] for seed in range(8)], notifier_retry(2, guard=True)]
    return [driver(host)(Run(world, Seeded(5))).digest for world in worlds for host in HOSTS]


def test_same_trace_in_every_process() -> None:
    found = digests()
    assert json.loads(said_elsewhere(DIGESTS)) == found
    assert len(set(found)) == len(found) // len(HOSTS)


@pytest.mark.parametrize("backend", LOOPS)
def test_several_runs_share_a_loop(backend: str) -> None:
    worlds = [random_world(seed)[0] for seed in range(5)]
    alone = [driver("direct")(Run(world, Seeded(1))) for world in worlds]
    together: dict[int, Outcome] = {}

    async def one(number: int) -> None:
        together[number] = await loop.drive(Run(worlds[number], Seeded(1)))

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(one, number)

    RUNNERS[backend](main)
    assert [same(together[number]) for number in range(5)] == [same(o) for o in alone]


# --- worlds that do not end ---


class Endless:
    """Two tasks that spin, with a cleanup that publishes an op; ``left`` tells who was closed."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.world = World()
        self.cell = self.world.cell("cell", 0)
        for name in "ab":
            self.world.task(name, self.spin, name)

    async def spin(self, name: str) -> None:
        try:
            while not await self.cell:
                pass
        finally:
            self.left.append(name)
            await fence()
            self.left.append("never")

    def run(self, picker: Any = None) -> Run:
        return Run(self.world, picker or Seeded(0), step_budget=sys.maxsize)


class Stubborn(Seeded):
    """Always the first task: the turn is never passed on."""

    def pick(self, enabled: Any, pending: Any, last: int) -> int:
        return int(enabled[0])


PICKERS = [Seeded(0), Stubborn(0)]


@pytest.mark.parametrize("picker", PICKERS)
@pytest.mark.parametrize("backend", LOOPS)
def test_scope_of_anyio_ends_a_run(backend: str, picker: Any) -> None:
    endless = Endless()

    async def main() -> bool:
        with anyio.move_on_after(0.02) as scope:
            await loop.drive(endless.run(picker))
        return scope.cancelled_caught

    assert RUNNERS[backend](main)
    assert sorted(endless.left) == ["a", "b"]


@pytest.mark.parametrize("backend", LOOPS)
def test_timeout_of_anyio_is_a_timeout(backend: str) -> None:
    endless = Endless()

    async def main() -> None:
        with anyio.fail_after(0.02):
            await loop.drive(endless.run())

    with pytest.raises(TimeoutError):
        RUNNERS[backend](main)
    assert sorted(endless.left) == ["a", "b"]


@pytest.mark.parametrize("picker", PICKERS)
def test_trio_scope_ends_a_run(picker: Any) -> None:
    endless = Endless()

    async def main() -> bool:
        with trio.move_on_after(0.02) as scope:
            await loop.drive(endless.run(picker))
        return scope.cancelled_caught

    assert trio.run(main)
    assert sorted(endless.left) == ["a", "b"]


@pytest.mark.parametrize("picker", PICKERS)
def test_asyncio_timeout_ends_a_run(picker: Any) -> None:
    endless = Endless()

    async def main() -> None:
        async with asyncio.timeout(0.02):
            await loop.drive(endless.run(picker))

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert sorted(endless.left) == ["a", "b"]


def test_asyncio_task_can_be_cancelled() -> None:
    endless = Endless()

    async def main() -> None:
        task = asyncio.create_task(loop.drive(endless.run()))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert sorted(endless.left) == ["a", "b"]


@pytest.mark.parametrize("picker", PICKERS)
@pytest.mark.parametrize("backend", LOOPS)
def test_other_tasks_of_the_loop_run_beside(backend: str, picker: Any) -> None:
    endless, ticks = Endless(), 0

    async def main() -> None:
        nonlocal ticks
        async with anyio.create_task_group() as group:
            group.start_soon(partial(loop.drive, endless.run(picker)))
            for _ in range(10):
                await anyio.sleep(0.001)
                ticks += 1
            group.cancel_scope.cancel()

    RUNNERS[backend](main)
    assert ticks == 10


def test_interrupt_closes_a_direct_run() -> None:
    class Interrupts(Seeded):
        def pick(self, enabled: Any, pending: Any, last: int) -> int:
            raise KeyboardInterrupt

    endless = Endless()
    with pytest.raises(KeyboardInterrupt):
        driver("direct")(endless.run(Interrupts(0)))
    assert sorted(endless.left) == ["a", "b"]
    assert endless.world.live_memories == []


# --- failures ---


class Failing(Endless):
    """As above, with a third task that fails: at once, or after some steps."""

    def __init__(self, error: Exception, after: int) -> None:
        super().__init__()
        self.world.task("fails", self.fail, error, after)

    async def fail(self, error: Exception, after: int) -> None:
        for _ in range(after):
            await self.cell
        raise error


@pytest.mark.parametrize("after", [0, 1, 20])
@pytest.mark.parametrize("host", HOSTS)
def test_failure_surfaces_as_itself(host: str, after: int) -> None:
    error = LookupError("itself")
    failing = Failing(error, after)
    with pytest.raises(LookupError) as caught:
        driver(host)(failing.run())
    assert caught.value is error
    assert sorted(failing.left) == ["a", "b"]


@pytest.mark.parametrize("backend", LOOPS)
def test_failure_leaves_the_rest_of_the_loop_alone(backend: str) -> None:
    async def main() -> str:
        try:
            await loop.drive(Failing(LookupError(), 3).run())
        except LookupError:
            await anyio.lowlevel.checkpoint()
            return "goes on"
        return "nothing was raised"

    assert RUNNERS[backend](main) == "goes on"


@pytest.mark.parametrize("host", HOSTS)
def test_failing_picker_surfaces_as_itself(host: str) -> None:
    class Fails(Seeded):
        def pick(self, enabled: Any, pending: Any, last: int) -> int:
            if last >= 0:
                raise LookupError
            return super().pick(enabled, pending, last)

    endless = Endless()
    with pytest.raises(LookupError):
        driver(host)(endless.run(Fails(0)))
    assert sorted(endless.left) == ["a", "b"]


# --- small worlds ---


@pytest.mark.parametrize("host", HOSTS)
def test_world_without_tasks(host: str) -> None:
    assert driver(host)(Run(World(), Seeded(0))).ending is Ending.QUIESCENT


@pytest.mark.parametrize("host", HOSTS)
def test_tasks_without_ops(host: str) -> None:
    async def nothing(cell: Cell[int]) -> None:
        del cell

    world = World()
    world.task("nothing", nothing, world.cell("cell", 0))
    outcome = driver(host)(Run(world, Seeded(0)))
    assert (outcome.ending, outcome.steps) == (Ending.QUIESCENT, 0)


@pytest.mark.parametrize("host", HOSTS)
def test_step_budget(host: str) -> None:
    endless = Endless()
    outcome = driver(host)(Run(endless.world, Seeded(0), step_budget=1_000))
    assert (outcome.ending, outcome.steps) == (Ending.STEP_BUDGET, 1_000)
    assert sorted(endless.left) == ["a", "b"]
