"""Sampling on several processes says what one process says."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.search.random_worlds import random_world
from vmm.engine.hosts.direct import drive
from vmm.search import processes
from vmm.search.processes import executions
from vmm.search.sampling import Budget, Sample, Sampler, collect
from vmm.strategies.random import RandomPicker

MANY = {"executions": 70, "keep_going": True}


def sampler(world: int) -> Sampler:
    return Sampler(random_world(world)[0], RandomPicker, drive, seed=5)


def sampled(world: int, jobs: int, **limits: Any) -> dict[str, Any]:
    budget = Budget(**limits)
    build = partial(sampler, world)
    made = executions(build, jobs, most=budget.executions) if jobs else build().executions()
    done = collect(made, build().world, budget=budget)
    return {name: getattr(done, name) for name in Sample.__slots__ if name != "seconds"}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BATCH", 16)


def test_as_one_process() -> None:
    """World 195 deadlocks, the first time in execution 50."""
    for limits in (MANY, {"executions": 70}):
        expected = sampled(195, 0, **limits)
        assert [failure.execution for failure in expected["failures"]] == [50]
        assert sampled(195, 2, **limits) == expected


def test_interrupt_keeps_what_there_is() -> None:
    def interrupt(done: Sample) -> None:
        raise KeyboardInterrupt

    made = executions(partial(sampler, 195), 2)
    done = collect(made, sampler(195).world, budget=Budget(keep_going=True), on_progress=interrupt)
    assert (done.interrupted, done.executions) == (True, 64)
