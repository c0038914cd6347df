"""The catalogue under x86-TSO: no scenario needs a barrier that it has not, no bug hides."""

from __future__ import annotations

import pytest

from tests import catalogue
from vmm.discovery import discover
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.scenario.experiment import Experiment, prepare
from vmm.scenario.loading import LoadedScenario
from vmm.search import exhaustive
from vmm.search.result import Result, Verdict

QUICK = ("stale-gpte", "emulated-write-order", "notifier-retry", "tlb-shootdown")
"""Scenarios of some ten thousand states; store buffers triple what there is without."""

FOUND_SOONER = {
    "flush-then-clear": "request/lost",
    "slots-lock-under-mmu-lock": "deadlock/stuck",
}
"""What shows a bug first where stores are late, if its file does not name it."""


def buffered(loaded: LoadedScenario, *bugs: str) -> Experiment:
    params = {**loaded.scenario.small, "memory_model": "tso"}
    return prepare(loaded, params=params, bugs=bugs)


def stays(loaded: LoadedScenario) -> bool:
    """Whether no vCPU may leave its pCPU: others are refused with store buffers."""
    machine = catalogue.small(loaded).machine
    return machine is None or not machine.pcpus


def slow_unless_quick(slug: str) -> tuple[pytest.MarkDecorator, ...]:
    return () if slug in QUICK else (pytest.mark.slow,)


@pytest.mark.parametrize(
    "loaded",
    [
        pytest.param(loaded, marks=slow_unless_quick(loaded.slug))
        for loaded in catalogue.searchable()
        if stays(loaded)
    ],
    ids=catalogue.pair_id,
)
def test_fixed_twin_is_exhausted_clean(loaded: LoadedScenario) -> None:
    result = exhaustive.search(buffered(loaded).world())
    assert (result.verdict, result.complete) == (Verdict.CLEAN, True), result.findings
    assert all(result.goals.values()), result.goals


@pytest.mark.parametrize(
    ("loaded", "bug"),
    [
        pytest.param(loaded, bug, marks=slow_unless_quick(loaded.slug))
        for loaded, bug in catalogue.shows()
        if stays(loaded)
    ],
    ids=catalogue.pair_id,
)
def test_bug_is_found_with_a_code_it_names(loaded: LoadedScenario, bug: str) -> None:
    result = exhaustive.search(buffered(loaded, bug).world())
    assert result.verdict is Verdict.VIOLATED
    named = discover("vmm.bugs")[bug].SPEC.caught_by
    assert result.findings[0].code in (*named, FOUND_SOONER.get(bug))


def test_recorded_guest_runs_through_store_buffers() -> None:
    """In its recorded order, with every oracle: forwarding and drains lose nothing."""
    loaded = next(s for s in catalogue.scenarios() if s.slug == catalogue.RECORDED)
    experiment = prepare(loaded, params={"events": 300, "memory_model": "tso"})
    world = experiment.world()
    picker = experiment.pickers(world, experiment.default_strategy)(1)
    outcome = drive(Run(world, picker, incremental=True))
    assert not outcome.findings
    assert outcome.ending.value == "quiescent"


@pytest.mark.parametrize(
    ("memory_model", "barrier", "verdict"),
    [
        ("sc", 0, Verdict.CLEAN),
        ("sc", 1, Verdict.CLEAN),
        ("tso", 0, Verdict.VIOLATED),
        ("tso", 1, Verdict.CLEAN),
    ],
)
def test_a_missing_barrier_shows_only_with_store_buffers(
    memory_model: str, barrier: int, verdict: Verdict
) -> None:
    loaded = next(s for s in catalogue.scenarios() if s.slug == "tlb-shootdown")
    assert shootdown(loaded, memory_model, barrier).verdict is verdict


@pytest.mark.parametrize(
    ("memory_model", "bugs", "verdict"),
    [
        ("sc", (), Verdict.CLEAN),
        ("sc", ("request-mode-dekker",), Verdict.CLEAN),
        ("tso", (), Verdict.CLEAN),
        ("tso", ("request-mode-dekker",), Verdict.VIOLATED),
    ],
)
def test_mode_and_requests_need_a_barrier_only_with_store_buffers(
    memory_model: str, bugs: tuple[str, ...], verdict: Verdict
) -> None:
    loaded = catalogue.main_scenario("request-mode-dekker")
    experiment = prepare(loaded, params={"memory_model": memory_model}, bugs=bugs)
    assert exhaustive.search(experiment.world()).verdict is verdict


def shootdown(loaded: LoadedScenario, memory_model: str, barrier: int) -> Result:
    params = {**loaded.scenario.small, "memory_model": memory_model, "barrier": barrier}
    return exhaustive.search(prepare(loaded, params=params).world())
