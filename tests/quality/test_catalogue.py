"""The point of it all: each bug is found, and gone with its fix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from tests import catalogue
from vmm.discovery import discover
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.ops import Op
from vmm.engine.schedule import Recorded, decode
from vmm.engine.world import World
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import LoadedScenario
from vmm.search import exhaustive
from vmm.search.result import Verdict
from vmm.strategies.random import RandomPicker

QUICK = ("stale-gpte", "emulated-write-order", "notifier-retry")
"""Bugs that a few dozen random schedules show."""
TWIN_SLICE, BUG_SLICE = 1_000, 3_000
"""States of each world that are searched by default."""
SHORT = 50
"""Steps; a bug whose stored schedule has more is hardly found in a slice."""
FOUND_WITHIN = 1_000
SAMPLED = (
    "stale-gpte",
    "emulated-write-order",
    "remote-flush-missing",
    "early-request-check",
    "notifier-retry",
    "pinned-root-unprotected",
    "tlbs-dirty-write-protect",
    "januscape",
)
"""Bugs that sampling must find; what it takes for each of all is told by ``vmm matrix --full``."""
TWIN_EXECUTIONS, TWIN_EXECUTIONS_SLOW = 4, 10_000
CORPUS = Path(__file__).parent.parent / "corpus"

SHOWN = pytest.mark.parametrize(("loaded", "bug"), catalogue.shows(), ids=catalogue.pair_id)
EACH_SCENARIO = pytest.mark.parametrize("loaded", catalogue.searchable(), ids=catalogue.pair_id)


@pytest.mark.slow
@EACH_SCENARIO
def test_fixed_twin_is_exhausted_clean(loaded: LoadedScenario) -> None:
    """A proof: every state visited, nothing found, every goal reached."""
    result = exhaustive.search(catalogue.small(loaded).world())
    assert (result.verdict, result.complete) == (Verdict.CLEAN, True), result.findings
    assert not result.deadlocks
    assert all(result.goals.values()), result.goals


@EACH_SCENARIO
def test_first_states_of_the_fixed_twin_are_clean(loaded: LoadedScenario) -> None:
    result = exhaustive.search(catalogue.small(loaded).world(), max_states=TWIN_SLICE)
    assert not result.findings
    assert not result.deadlocks
    assert result.complete or result.states >= TWIN_SLICE
    assert not result.complete or all(result.goals.values()), result.goals


@pytest.mark.slow
@SHOWN
def test_bug_is_found_with_a_code_it_names(loaded: LoadedScenario, bug: str) -> None:
    result = exhaustive.search(catalogue.small(loaded, bug).world())
    assert result.verdict is Verdict.VIOLATED
    assert result.findings[0].code in discover("vmm.bugs")[bug].SPEC.caught_by


def stored(loaded: LoadedScenario, bug: str) -> tuple[str, Recorded]:
    """The code and the schedule that the corpus has; its tests replay them all on every host."""
    code, token = (CORPUS / f"{loaded.slug}.{bug}.token").read_text().split()
    return code, decode(token)


SHORT_ONES = [
    (loaded, bug)
    for loaded, bug in catalogue.shows_in_a_step()
    if len(stored(loaded, bug)[1].schedule.tasks) <= SHORT
]


@pytest.mark.parametrize(("loaded", "bug"), SHORT_ONES, ids=catalogue.pair_id)
def test_first_states_show_the_bug_or_its_schedule_is_stored(
    loaded: LoadedScenario, bug: str
) -> None:
    result = exhaustive.search(catalogue.small(loaded, bug).world(), max_states=BUG_SLICE)
    codes = discover("vmm.bugs")[bug].SPEC.caught_by
    if result.verdict is Verdict.VIOLATED:
        assert result.findings[0].code in codes
        return
    assert result.verdict is Verdict.INCOMPLETE
    assert stored(loaded, bug)[0] in codes


@pytest.mark.parametrize(
    "bug",
    [pytest.param(bug, marks=() if bug in QUICK else pytest.mark.slow) for bug in SAMPLED],
)
def test_random_schedules_find_the_bug(bug: str) -> None:
    """Within a thousand executions; most bugs take fewer than a hundred.

    Some show only if one task does a whole fault or zap while another waits: too rare if every step
    may switch, so half of the schedules stay with a task.
    """
    built = prepare_full(catalogue.main_scenario(bug), bug)
    for seed in range(FOUND_WITHIN // 2):
        for picker in (RandomPicker(seed), StayingPicker(seed)):
            outcome = drive(Run(built, picker))
            if outcome.findings:
                assert outcome.findings[0].code in discover("vmm.bugs")[bug].SPEC.caught_by
                return
    pytest.fail(f"{bug} was not found in {FOUND_WITHIN} executions")


@EACH_SCENARIO
def test_random_schedules_find_nothing_in_the_fixed_twin(loaded: LoadedScenario) -> None:
    _sample_twin(loaded, TWIN_EXECUTIONS)


@pytest.mark.slow
@EACH_SCENARIO
def test_ten_thousand_random_schedules_find_nothing_in_the_fixed_twin(
    loaded: LoadedScenario,
) -> None:
    _sample_twin(loaded, TWIN_EXECUTIONS_SLOW)


def _sample_twin(loaded: LoadedScenario, executions: int) -> None:
    built = prepare_full(loaded)
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
