"""Scenarios as trio tasks beside other tasks of a test: the loop's order never matters."""

from __future__ import annotations

import pytest
import trio

from tests.lab import Lab, one_task
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.trace import Outcome
from vmm.errors import UsageError
from vmm.pytest_plugin import VmmRun
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import load


def alone(scenario: str, seed: int) -> Outcome:
    """The outcome on the plain stepper."""
    experiment = prepare(load(scenario))
    world = experiment.world()
    return drive(Run(world, experiment.pickers(world, "random")(seed)))


@pytest.mark.trio
async def test_many_scenarios_run_beside_each_other_and_a_busy_loop(
    lab: Lab, vmm_run: VmmRun
) -> None:
    outcomes: dict[int, Outcome] = {}
    spins = 0

    async def scenario(seed: int) -> None:
        outcomes[seed] = await vmm_run("lost_update", seed, check=False)

    async def busy() -> None:
        nonlocal spins
        while True:
            spins += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as others:
        others.start_soon(busy)
        async with trio.open_nursery() as nursery:
            for seed in range(1, 21):
                nursery.start_soon(scenario, seed)
        others.cancel_scope.cancel()
    assert spins > 0
    assert {seed: outcomes[seed] for seed in range(1, 21)} == {
        seed: alone("lost_update", seed) for seed in range(1, 21)
    }


@pytest.mark.trio
async def test_a_machine_runs_as_trio_tasks(vmm_run: VmmRun) -> None:
    outcome = await vmm_run("stale_gpte", seed=3)
    assert outcome == alone("stale_gpte", 3)
    assert outcome.ending.value == "quiescent"


ENDLESS = "while True:\n            await cell.set(1)"


@pytest.mark.trio
async def test_a_run_can_be_cancelled_from_outside(lab: Lab, vmm_run: VmmRun) -> None:
    lab.scenario("endless", one_task(ENDLESS))
    with trio.move_on_after(0.05) as scope:
        await vmm_run("endless", check=False)
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_a_failure_of_a_task_surfaces_as_itself(lab: Lab, vmm_run: VmmRun) -> None:
    lab.scenario("bad", one_task("await cell\n        raise RuntimeError('no luck')"))
    with pytest.raises(UsageError, match="in worker: RuntimeError: no luck"):
        await vmm_run("bad")
