"""Replay: what was recorded runs again on every host, or the first difference is named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.search.random_worlds import random_world
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.schedule import CHECKS_MAX, Origin, Recorded, decode, encode
from vmm.engine.trace import Outcome
from vmm.engine.world import World
from vmm.errors import Diverged
from vmm.search.replay import CheckedRun, replay
from vmm.strategies.random import RandomPicker
from vmm.strategies.recorded import RecordedPicker

ORIGIN = Origin(scenario="some", fingerprint="00", params={}, bugs=(), era=None)


def recorded(world: World, seed: int = 1, **more: Any) -> tuple[Recorded, Outcome]:
    run = CheckedRun(world, RandomPicker(seed), **more)
    outcome = driver("direct")(run)
    return run.recorded(ORIGIN, outcome), outcome


def again(world: World, record: Recorded, host: str = "direct") -> Outcome:
    _, outcome = replay(world, record, RecordedPicker(record.schedule), driver(host))
    return outcome


@dataclass
class Plan:
    """How the tasks of the counting world behave."""

    rounds: int = 3
    cell: str = "a"
    amount: int = 1


def counting(plan: Plan) -> World:
    world = World("counting")
    a, b, gate = world.cell("a", 0), world.cell("b", 0), world.cell("gate", 0)
    chosen = {"a": a, "b": b}[plan.cell]

    async def first(rounds: int) -> None:
        for _ in range(rounds):
            await a.set(await a + 1)
        await gate.set(1)

    async def second(rounds: int, amount: int) -> None:
        for _ in range(rounds):
            await chosen.set(await chosen + amount)

    world.task("first", first, plan.rounds)
    world.task("second", second, plan.rounds, plan.amount)
    return world


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("number", range(5))
def test_random_worlds_replay_on_every_host(number: int, host: str) -> None:
    world, _ = random_world(number)
    record, outcome = recorded(world, seed=number, step_budget=300)
    assert again(world, decode(encode(record)), host) == outcome


def test_a_record_may_stop_before_the_end() -> None:
    world = counting(Plan())
    record, outcome = recorded(world, step_budget=5)
    assert outcome.ending.value == "step-budget"
    assert again(world, record) == outcome


def test_long_runs_have_a_check_for_several_steps() -> None:
    world = counting(Plan(rounds=800))
    record, outcome = recorded(world)
    assert outcome.steps == 3201
    assert record.stride == 4
    assert len(record.checks) == 801 <= CHECKS_MAX
    assert again(world, record) == outcome
    with pytest.raises(Diverged, match=r"one of the steps \d+ to \d+ differs"):
        again(counting(Plan(rounds=800, cell="b")), record)


def test_another_op_is_named_with_its_step() -> None:
    record, outcome = recorded(counting(Plan()))
    step = outcome.tasks.index(1) + 1
    with pytest.raises(Diverged, match=f"step {step} differs from the record") as caught:
        again(counting(Plan(cell="b")), record)
    assert caught.value.step == step
    assert "second does `read b`, enabled are first, second" in str(caught.value)


def test_other_values_are_noticed_at_the_end() -> None:
    record, _ = recorded(counting(Plan()))
    with pytest.raises(Diverged, match="read or wrote other values"):
        again(counting(Plan(amount=2)), record)


def test_more_or_fewer_steps_are_noticed() -> None:
    record, outcome = recorded(counting(Plan()))
    with pytest.raises(Diverged) as caught:
        again(counting(Plan(rounds=1)), record)
    assert 1 <= caught.value.step <= outcome.steps
    with pytest.raises(Diverged):
        again(counting(Plan(rounds=9)), record)


def test_a_run_that_ends_early_is_noticed() -> None:
    world = World("short")
    cell = world.cell("c", 0)

    async def task(rounds: int) -> None:
        for _ in range(rounds):
            await cell

    world.task("task", task, 2)
    record, _ = recorded(world)
    schedule = msgspec.structs.replace(record.schedule, tasks=record.schedule.tasks + b"\0")
    longer = msgspec.structs.replace(record, schedule=schedule, checks=record.checks + b"\0")
    with pytest.raises(Diverged, match="the run is over after 2 steps") as caught:
        again(world, longer)
    assert caught.value.step == 3


@pytest.mark.parametrize("host", HOSTS)
def test_a_divergence_surfaces_as_itself_on_every_host(host: str) -> None:
    record, _ = recorded(counting(Plan()))
    with pytest.raises(Diverged):
        again(counting(Plan(cell="b")), record, host)
    nobody = msgspec.structs.replace(record.schedule, tasks=b"\x07" * 13)
    with pytest.raises(Diverged, match="step 1 was recorded for task 7"):
        again(counting(Plan()), msgspec.structs.replace(record, schedule=nobody), host)


def test_a_step_that_publishes_a_bad_access_is_told_from_one_that_is_bad() -> None:
    from vmm.engine.monitor import Finding, Monitor

    class NoWrites(Monitor):
        name = "no/writes"
        sees_pending = True

        def on_pending(self, task: Any, op: Any, view: Any) -> tuple[Finding, ...]:
            return (Finding("no/writes", "writes", "never", "a test"),) if op.writes else ()

    world = counting(Plan())
    world.monitors.append(NoWrites())
    run = CheckedRun(world, RandomPicker(1))
    outcome = driver("direct")(run)
    assert outcome.findings
    assert run.published == outcome.tasks[-1]
    op = run.pending[run.published]
    assert op is not None
    assert op.kind == "write"
