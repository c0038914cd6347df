"""The point of it all: each bug is found, and gone with its fix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import pytest

from tests import catalogue
from vmm.discovery import discover
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.ops import Op
from vmm.engine.schedule import Picker
from vmm.engine.trace import Ending
from vmm.engine.world import World
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import LoadedScenario
from vmm.search import exhaustive, reference
from vmm.search.result import Verdict
from vmm.strategies.random import RandomPicker

QUICK = ("stale-gpte", "emulated-write-order", "notifier-retry")
"""Scenarios of a few thousand states; the reference search takes seconds for the others."""
FOUND_WITHIN = 1_000
LONG_WINDOW = (
    "dirty-log-late-flush",
    "flush-test-writable-bit",
    "huge-page-overwrite",
    "invlpg-flush-missing",
    "januscape",
    "lockless-walk-free",
    "mmio-generation-early",
    "mmio-generation-wrap",
    "mmio-over-present",
    "notifier-late-flush",
    "tlbs-dirty-notifier",
    "tlbs-dirty-write-protect",
    "unsync-mark-order",
    "wrong-gfn-child",
)
"""One task must do a whole fault or zap while another waits: too rare if every step may switch."""
ONE_STEP_WINDOW = ("obsolete-zap-no-flush", "volatile-spte-store")
"""Another task must do a whole zap or fault between two steps of one, twice: not sampled."""
LEFT_BY_LUCK = ("zap-all-livelock",)
"""A livelock that random schedules leave sooner or later."""
STEPS_IN_VAIN = 20_000
"""A hundred times as many as the programs of a livelock's scenario need."""
TWIN_EXECUTIONS, TWIN_EXECUTIONS_SLOW = 100, 10_000

SHOWN = pytest.mark.parametrize(("loaded", "bug"), catalogue.shows(), ids=catalogue.pair_id)
EACH_BUG = pytest.mark.parametrize("bug", catalogue.bugs())
EACH_SCENARIO = pytest.mark.parametrize("loaded", catalogue.searchable(), ids=catalogue.pair_id)


@EACH_SCENARIO
def test_fixed_twin_is_exhausted_clean(loaded: LoadedScenario) -> None:
    """A proof: every state visited, nothing found, every goal reached."""
    result = exhaustive.search(catalogue.small(loaded).world())
    assert (result.verdict, result.complete) == (Verdict.CLEAN, True), result.findings
    assert not result.deadlocks
    assert all(result.goals.values()), result.goals


@SHOWN
def test_bug_is_found_with_a_code_it_names(loaded: LoadedScenario, bug: str) -> None:
    result = exhaustive.search(catalogue.small(loaded, bug).world())
    assert result.verdict is Verdict.VIOLATED
    assert result.findings[0].code in discover("vmm.bugs")[bug].SPEC.caught_by


@pytest.mark.parametrize(
    "loaded",
    [
        pytest.param(loaded, marks=() if loaded.slug in QUICK else pytest.mark.slow)
        for loaded in catalogue.searchable()
    ],
    ids=catalogue.pair_id,
)
def test_reference_search_agrees(loaded: LoadedScenario) -> None:
    fast = exhaustive.search(catalogue.small(loaded).world())
    slow = reference.search(catalogue.small(loaded).world())
    assert (fast.verdict, fast.states, fast.transitions, fast.depth, fast.goals) == (
        slow.verdict,
        slow.states,
        slow.transitions,
        slow.depth,
        slow.goals,
    )


@pytest.mark.parametrize(
    "bug", [bug for bug in catalogue.bugs() if bug not in (*ONE_STEP_WINDOW, *LEFT_BY_LUCK)]
)
def test_random_schedules_find_the_bug(bug: str) -> None:
    """Within a thousand executions; most bugs take fewer than a hundred."""
    if all(code.startswith("livelock/") for code in discover("vmm.bugs")[bug].SPEC.caught_by):
        _run_out_of_steps(bug)
        return
    world = catalogue.main_scenario(bug)
    built = prepare_full(world, bug)
    picker: Callable[[int], Picker] = StayingPicker if bug in LONG_WINDOW else RandomPicker
    for seed in range(FOUND_WITHIN):
        outcome = drive(Run(built, picker(seed)))
        if outcome.findings:
            assert outcome.findings[0].code in discover("vmm.bugs")[bug].SPEC.caught_by
            return
    pytest.fail(f"{bug} was not found in {FOUND_WITHIN} executions")


def _run_out_of_steps(bug: str) -> None:
    """A run cannot tell a livelock from a long way: it goes on as long as it may."""
    built = prepare_full(catalogue.main_scenario(bug), bug)
    endings = [
        drive(Run(built, RandomPicker(seed), step_budget=STEPS_IN_VAIN)).ending for seed in range(3)
    ]
    assert endings == [Ending.STEP_BUDGET] * 3


@EACH_BUG
def test_random_schedules_find_nothing_in_the_fixed_twin(bug: str) -> None:
    _sample_twin(bug, TWIN_EXECUTIONS)


@pytest.mark.slow
@EACH_BUG
def test_ten_thousand_random_schedules_find_nothing_in_the_fixed_twin(bug: str) -> None:
    _sample_twin(bug, TWIN_EXECUTIONS_SLOW)


def _sample_twin(bug: str, executions: int) -> None:
    built = prepare_full(catalogue.main_scenario(bug))
    for seed in range(executions):
        outcome = drive(Run(built, RandomPicker(seed)))
        assert not outcome.findings, (seed, outcome.findings)


class StayingPicker:
    """Stays with the task that stepped last, but for one step in a hundred."""

    every_step = True

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        if last in enabled and self.random.random() < 0.99:
            return last
        return enabled[self.branch(len(enabled))]

    def branch(self, count: int) -> int:
        return int(self.random.random() * count)


def prepare_full(loaded: LoadedScenario, *bugs: str) -> World:
    """The world with the scenario's own parameters."""
    return prepare(loaded, bugs=bugs).world()
