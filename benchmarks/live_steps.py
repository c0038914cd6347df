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
from collections.abc import Coroutine, Generator
from typing import Any

import click

from vmm.engine.hosts import driver
from vmm.engine.live import Run
from vmm.scenario.experiment import Experiment, prepare
from vmm.scenario.loading import load

SCENARIOS = ("calibration/notifier_retry", "stale_gpte", "context_switches", "linux_guest")
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


def mean_depth(experiment: Experiment, steps: int = 3000) -> float:
    """The mean await depth of the stepping task over the first steps of some runs."""
    world = experiment.world()
    make = experiment.pickers(world, experiment.default_strategy)
    depths: list[int] = []
    seed = 0
    while len(depths) < steps:
        run = Run(world, make(seed), monitors=False)
        run.begin()
        while (number := run.next()) is not None and len(depths) < steps:
            depths.append(depth_of(run.programs[number]))
            run.step(number)
        run.close()
        seed += 1
    return sum(depths) / len(depths)


def steps_a_second(experiment: Experiment, host: str, *, monitors: bool, seconds: float) -> float:
    """Steps a second over whole runs, each under a seed of its own."""
    world = experiment.world()
    make = experiment.pickers(world, experiment.default_strategy)
    drive = driver(host)
    steps = seed = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        run = Run(world, make(seed), monitors=monitors, incremental=experiment.is_long)
        steps += drive(run).steps
        seed += 1
    return steps / (time.perf_counter() - start)


@click.command()
@click.option("--seconds", default=0.6, help="length of each measurement")
@click.option("--scenario", "names", multiple=True, default=SCENARIOS, help="what to run")
def main(seconds: float, names: tuple[str, ...]) -> None:
    """Print a row for each scenario, host, and with monitors off and on."""
    click.echo(f"{'scenario':28}{'host':9}{'monitors':10}{'steps/s':>10}{'bare/s':>12}{'ratio':>8}")
    for name in names:
        experiment = prepare(load(name))
        tasks = len(experiment.world().tasks)
        depth = mean_depth(experiment)
        for host in ("direct", "asyncio", "trio"):
            for monitors in (False, True):
                bare = max(_bare(depth, tasks) for _ in range(ROUNDS))
                steps = max(
                    steps_a_second(experiment, host, monitors=monitors, seconds=seconds / ROUNDS)
                    for _ in range(ROUNDS)
                )
                click.echo(
                    f"{name:28}{host:9}{'on' if monitors else 'off':10}"
                    f"{steps:10,.0f}{bare:12,.0f}{steps / bare:8.3f}"
                )
        click.echo(f"{'':28}await depth {depth:.1f}, {tasks} tasks")


def _bare(depth: float, tasks: int) -> float:
    low = int(depth)
    share = depth - low
    below, above = (bare_switches(d, tasks, 120_000) for d in (low, low + 1))
    return 1 / ((1 - share) / below + share / above)


if __name__ == "__main__":
    main()
