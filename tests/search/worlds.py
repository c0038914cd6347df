"""Worlds for the tests of searches."""

from pathlib import Path
from typing import Any

from vmm.engine.cells import Cell
from vmm.engine.world import World
from vmm.scenario.loading import load_file

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def notifier_retry(vcpus: int, *, guard: bool) -> World:
    """The calibration world, as its scenario file builds it."""
    scenario = load_file(SCENARIOS / "calibration" / "notifier_retry.py").scenario
    assert scenario.build is not None
    world = World("notifier-retry")
    world.goals = scenario.goals
    scenario.build(world, {"vcpus": vcpus, "guard": int(guard)})
    return world


def two_locks() -> World:
    """The classic: each task holds what the other one wants."""
    world = World("two locks")
    one, two = world.lock("one"), world.lock("two")
    done = world.cell("done", 0)

    async def takes(first: Any, second: Any, amount: int) -> None:
        async with first, second:
            await done.set(await done + amount)

    world.task("left", takes, one, two, 1)
    world.task("right", takes, two, one, 2)
    return world


def cells(world: World, *initial: Any) -> list[Cell[Any]]:
    """Cells c0, c1, ... with these values."""
    return [world.cell(f"c{number}", value) for number, value in enumerate(initial)]
