"""What the searches of the matrix say of one bug and one twin."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.lab import Lab
from vmm.discovery import discover
from vmm.matrix.plan import Pair
from vmm.matrix.work import (
    BugSearch,
    Sampling,
    Twin,
    TwinSearch,
    answers,
    exhaust,
    look_by_sampling,
    look_for,
    pieces,
)

QUICK = Pair("zap-flush-accumulate", "zap-flush-accumulate")
LIVELOCK = Pair("pinned-root-unprotected", "pinned-root-unprotected")


def test_a_bug_is_found_with_a_schedule_that_replays(lab: Lab) -> None:
    found = look_for(QUICK)
    said = lab.vmm("replay", found.schedule, "--json")
    assert (said.code, said.json["steps"]) == (1, found.steps)
    assert said.json["findings"][0]["code"] == found.code == "isolation/page-given-back"
    assert said.json["findings"][0]["switches"] == found.switches
    assert found.preemptions == 0


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert look_for(Pair("januscape", "wrong-gfn-child")).code is None


def test_a_twin_is_clean_once_all_its_states_are_visited_and_its_goals_reached() -> None:
    twin = exhaust(QUICK.scenario)
    assert twin.is_clean
    assert twin.states > 1_000
    assert not Twin(complete=False, states=1, code=None, goals=()).is_clean
    assert not Twin(complete=True, states=1, code=None, goals=("never",)).is_clean
    assert not Twin(complete=True, states=1, code="audit/rmap", goals=()).is_clean


def test_bugs_that_share_a_scenario_share_its_twin() -> None:
    pairs = [Pair("a", "s"), Pair("b", "s")]
    assert pieces(pairs, sampling=False) == [TwinSearch("s"), *map(BugSearch, pairs)]


def test_no_sampling_for_livelocks(monkeypatch: pytest.MonkeyPatch) -> None:
    only = {"caught_by": ("livelock/fair",)}
    spec = replace(discover("vmm.bugs")[LIVELOCK.bug].SPEC, **only)
    monkeypatch.setattr(discover("vmm.bugs")[LIVELOCK.bug], "SPEC", spec)
    asked = pieces([QUICK, LIVELOCK], sampling=True)
    assert [piece for piece in asked if isinstance(piece, Sampling)] == [Sampling(QUICK)]


def test_sampling_gives_the_median_or_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    median = look_by_sampling(QUICK).executions
    assert median is not None
    assert 1 <= median < 100
    monkeypatch.setattr("vmm.matrix.work.EXECUTIONS_MAX", 1)
    rare = Pair("tlbs-dirty-notifier", "flush-debt")
    assert look_by_sampling(rare).executions is None


@pytest.mark.slow
def test_processes_answer_as_one_does() -> None:
    wanted = pieces([QUICK, LIVELOCK], sampling=False)
    assert dict(answers(wanted, jobs=2)) == dict(answers(wanted, jobs=1))
