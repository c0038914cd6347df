"""Steps a second of live runs on each host, against the bare cost of switching coroutines.

    python benchmarks/live_steps.py [--seconds 1.0]

A step is one op: it takes effect, goes into the trace digest, and its task runs on to its next
op. The bare switch is ``send`` into coroutines that await as deeply as the scenario's tasks do
(the mean depth over all steps, measured in this run; between two whole depths the cost is
interpolated), in turn, and do nothing else. ``ratio`` is steps a second over bare switches a
second: 1.0 would mean that the engine and the model's own code cost nothing. What a run needs to
start is included.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import click

from vmm.engine.hosts import driver
from vmm.engine.live import Run
from vmm.engine.schedule import Picker
from vmm.engine.world import World
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import load
from vmm.strategies.random import RandomPicker

ENGINE = "engine alone"
"""Tasks that only read and write a cell, as deep as the machine's: no model code between ops."""
ENGINE_DEPTH, ENGINE_TASKS, ENGINE_STEPS = 8, 4, 2000
SCENARIOS = (ENGINE, "calibration/notifier_retry", "stale_gpte", "context_switches", "linux_guest")
ROUNDS = 5


@types.coroutine
def trap() -> Generator[None, None, None]:
    """The innermost await of a bare chain."""
    yield


async def chain(depth: int) -> None:
    """Awaits ``depth`` levels below the outermost coroutine, forever."""
    if depth > 1:
        await chain(depth - 1)
    while True:
        await trap()


def bare_switches(depth: int, tasks: int, count: int) -> float:
    """Bare switches a second among ``tasks`` coroutines that await ``depth`` levels deep."""
    coroutines: list[Coroutine[None, None, None]] = [chain(depth - 1) for _ in range(tasks)]
    sends = [coroutine.send for coroutine in coroutines] * (count // tasks)
    for send in sends[:tasks]:
        send(None)
    start = time.perf_counter()
    for send in sends:
        send(None)
    took = time.perf_counter() - start
    for coroutine in coroutines:
        coroutine.close()
    return len(sends) / took


def depth_of(program: Any) -> int:
    """How many frames lie below a suspended coroutine."""
    depth = 0
    while program is not None:
        depth += 1
        program = getattr(program, "cr_await", None) or getattr(program, "gi_yieldfrom", None)
    return depth


class Subject:
    """A world to run, and how its runs are scheduled."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.make: Callable[[int], Picker] = RandomPicker
        self.incremental = False
        if name == ENGINE:
            self.world = engine_world()
        else:
            experiment = prepare(load(name))
            self.world = experiment.world()
            self.make = experiment.pickers(self.world, experiment.default_strategy)
            self.incremental = experiment.is_long
        self.tasks = len(self.world.tasks)
        self.depth = self._mean_depth()

    def _mean_depth(self, steps: int = 3000) -> float:
        """The mean await depth of the stepping task over the first steps of some runs."""
        depths: list[int] = []
        seed = 0
        while len(depths) < steps:
            run = Run(self.world, self.make(seed), monitors=False)
            run.begin()
            while (number := run.next()) is not None and len(depths) < steps:
                depths.append(depth_of(run.programs[number]))
                run.step(number)
            run.close()
            seed += 1
        return sum(depths) / len(depths)

    def steps_a_second(self, host: str, *, monitors: bool, seconds: float) -> float:
        """Steps a second over whole runs, each under a seed of its own."""
        drive = driver(host)
        steps = seed = 0
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            run = Run(self.world, self.make(seed), monitors=monitors, incremental=self.incremental)
            steps += drive(run).steps
            seed += 1
        return steps / (time.perf_counter() - start)

    def bare(self) -> float:
        """Bare switches a second at this world's await depth and number of tasks."""
        low = int(self.depth)
        share = self.depth - low
        below, above = (bare_switches(d, self.tasks, 120_000) for d in (low, low + 1))
        return 1 / ((1 - share) / below + share / above)


def engine_world() -> World:
    """Tasks that read and write one cell in turn, ``ENGINE_DEPTH`` awaits deep."""
    world = World(ENGINE)
    cell = world.cell("cell", 0)

    async def nested(depth: int) -> None:
        if depth > 1:
            await nested(depth - 1)
            return
        for _ in range(ENGINE_STEPS):
            await cell.set(await cell + 1)

    for number in range(ENGINE_TASKS):
        world.task(f"t{number}", nested, ENGINE_DEPTH - 1)
    return world


@click.command()
@click.option("--seconds", default=0.6, help="length of each measurement")
@click.option("--scenario", "names", multiple=True, default=SCENARIOS, help="what to run")
def main(seconds: float, names: tuple[str, ...]) -> None:
    """Print a row for each scenario, host, and with monitors off and on."""
    click.echo(f"{'scenario':28}{'host':9}{'monitors':10}{'steps/s':>10}{'bare/s':>12}{'ratio':>8}")
    for name in names:
        subject = Subject(name)
        for host in ("direct", "asyncio", "trio"):
            for monitors in (False, True):
                # In turn, so that both see the same machine.
                pairs = [
                    (
                        subject.bare(),
                        subject.steps_a_second(host, monitors=monitors, seconds=seconds / ROUNDS),
                    )
                    for _ in range(ROUNDS)
                ]
                bare, steps = (max(column) for column in zip(*pairs, strict=True))
                click.echo(
                    f"{name:28}{host:9}{'on' if monitors else 'off':10}"
                    f"{steps:10,.0f}{bare:12,.0f}{steps / bare:8.3f}"
                )
        click.echo(f"{'':28}await depth {subject.depth:.1f}, {subject.tasks} tasks")


if __name__ == "__main__":
    main()
