"""Sampling: budgets, failures, and classes of executions held against a slow definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.search.random_worlds import random_world
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.monitor import Finding
from vmm.engine.ops import choose
from vmm.engine.schedule import Schedule
from vmm.engine.task import TaskKind
from vmm.engine.trace import Ending, Outcome, TraceStep
from vmm.engine.world import World
from vmm.search import sampling
from vmm.search.sampling import Budget, ClassifiedRun, Sample, sample
from vmm.strategies.random import RandomPicker
from vmm.strategies.recorded import RecordedPicker

Label = tuple[int, str, tuple[str, ...], int | None]


# --- classes ---


def foata(trace: Sequence[TraceStep]) -> tuple[tuple[Label, ...], ...]:
    """The partial order of a run in its normal form: each step as early as what it depends on."""
    levels: list[list[Label]] = []
    placed: list[tuple[TraceStep, int]] = []
    for step in trace:
        before = [level for other, level in placed if depends(step, other)]
        level = max(before, default=-1) + 1
        placed.append((step, level))
        if level == len(levels):
            levels.append([])
        cells = tuple(cell.name for cell in step.op.cells)
        levels[level].append((step.task.index, step.op.kind, cells, step.branch))
    return tuple(tuple(sorted(level, key=repr)) for level in levels)


def depends(one: TraceStep, other: TraceStep) -> bool:
    shared = {cell.name for cell in one.op.cells} & {cell.name for cell in other.op.cells}
    return one.task is other.task or bool(shared and (one.op.writes or other.op.writes))


def classified(world: World, outcome: Outcome) -> int:
    run = ClassifiedRun(world, RecordedPicker(Schedule(outcome.tasks, outcome.branches)))
    drive(run)
    return run.partial_order


@pytest.mark.parametrize("number", range(12))
def test_classes_are_partial_orders(number: int) -> None:
    world, _ = random_world(number)
    by_form: dict[Any, int] = {}
    for seed in range(40):
        outcome = drive(Run(world, RandomPicker(seed), record=True, step_budget=200))
        if outcome.ending is Ending.STEP_BUDGET:
            continue
        known = by_form.setdefault(foata(outcome.trace), classified(world, outcome))
        assert known == classified(world, outcome)
    assert len(set(by_form.values())) == len(by_form)


def two_tasks(first: str, second: str) -> World:
    world = World("two tasks")
    cells = {name: world.cell(name, 0) for name in "abc"}

    async def task(words: str) -> None:
        for word in words.split():
            cell = cells[word[1]]
            if word[0] == "w":
                await cell.set(1)
            else:
                await cell

    world.task("first", task, first)
    world.task("second", task, second)
    return world


@pytest.mark.parametrize(
    ("first", "second", "classes"),
    [
        ("wa", "wb", 1),
        ("ra", "ra", 1),
        ("wa", "wa", 2),
        ("wa", "ra", 2),
        ("wa wb", "wb wa", 3),
        ("wa wb", "rb ra", 3),
        ("wa ra", "wb rb", 1),
        ("ra wb", "ra wc", 1),
    ],
)
def test_classes_of_two_tasks(first: str, second: str, classes: int) -> None:
    world = two_tasks(first, second)
    found = sample(world, RandomPicker, drive, budget=Budget(executions=200))
    assert len(found.classes) == classes
    assert found.unseen_mass == 0


def test_each_way_out_of_a_choice_is_a_class() -> None:
    world = World("choice")

    async def chooser() -> None:
        await choose(3)
        await choose(1)

    world.task("chooser", chooser)
    assert len(sample(world, RandomPicker, drive, budget=Budget(executions=60)).classes) == 3


def test_the_unseen_mass_is_the_share_of_classes_seen_once() -> None:
    assert Sample().unseen_mass is None
    found = Sample(executions=50, classes={1: 7, 2: 1, 3: 2})
    assert (found.classified, found.unseen_mass) == (10, 0.1)


def test_only_the_first_executions_are_classified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CLASSIFIED_MAX", 30)
    found = sample(two_tasks("wa", "wa"), RandomPicker, drive, budget=Budget(executions=50))
    assert (found.executions, found.classified) == (50, 30)


# --- budgets and failures ---


def failing_world(code: str = "a/b") -> World:
    """Fails where the second task goes first."""
    from vmm.engine.events import AuditPoint
    from vmm.engine.monitor import Audit, View

    world = World("failing")
    world.goals = ("never",)
    first = world.cell("first", 0)

    async def task(number: int) -> None:
        await first.cas(0, number, event=AuditPoint("chosen"))

    class Judge(Audit):
        name = code

        def full(self, state: Any, view: View) -> tuple[Finding, ...]:
            bad = view[first] == 2
            return (Finding(code, "second came first", "first come", "a test"),) if bad else ()

    world.monitors.append(Judge())
    world.task("one", task, 1)
    world.task("two", task, 2)
    return world


def test_it_stops_at_the_first_failure_and_numbers_it() -> None:
    world = failing_world()
    found = sample(world, RandomPicker, drive, budget=Budget(executions=100), seed=4)
    number = found.first_failure
    assert number == found.executions
    seeds = range(4, 4 + number)
    outcomes = [drive(Run(world, RandomPicker(seed))) for seed in seeds]
    assert [bool(outcome.findings) for outcome in outcomes] == [False] * (number - 1) + [True]
    assert found.failures[0].seed == seeds[-1]
    assert found.steps == sum(outcome.steps for outcome in outcomes)


def test_it_goes_on_if_told_and_keeps_one_failure_of_a_kind() -> None:
    budget = Budget(executions=100, keep_going=True)
    found = sample(failing_world(), RandomPicker, drive, budget=budget)
    assert found.executions == 100
    assert len(found.failures) == 1
    assert found.goals == {"never": False}


def test_seconds_end_it() -> None:
    found = sample(two_tasks("wa", "wa"), RandomPicker, drive, budget=Budget(seconds=0.02))
    assert found.executions > 1
    assert 0.02 <= found.seconds < 1


def test_ctrl_c_keeps_what_there_is() -> None:
    calls = 0

    def interrupted(run: Run) -> Outcome:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return drive(run)

    found = sample(two_tasks("wa", "wa"), RandomPicker, interrupted, budget=Budget(executions=9))
    assert (found.executions, found.interrupted) == (4, True)


def test_progress_is_told() -> None:
    told: list[int] = []
    sample(
        two_tasks("wa", "wa"),
        RandomPicker,
        drive,
        budget=Budget(executions=200),
        on_progress=lambda now: told.append(now.executions),
    )
    assert told == [64, 128, 192]


def test_classifying_changes_nothing() -> None:
    world = failing_world()
    world.task("eventual", _nothing, kind=TaskKind.EVENTUAL)
    for seed in range(20):
        plain = drive(Run(world, RandomPicker(seed)))
        assert drive(ClassifiedRun(world, RandomPicker(seed))) == plain


async def _nothing() -> None:
    return
