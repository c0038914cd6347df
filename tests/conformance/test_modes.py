"""Every scenario in every paging mode that makes sense for it: clean, and all its goals reached."""

from __future__ import annotations

import pytest

from tests import catalogue
from vmm.hw.layout import DEFAULT_MODE
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import LoadedScenario
from vmm.search.exhaustive import search
from vmm.search.result import Verdict

QUICK = ("stale-gpte", "emulated-write-order", "real-mode-writes-tables")
"""Scenarios of a few thousand states, searched in all modes by default."""

FREES_NO_TABLE = ("two-phase-zap", "zap-against-fault")
"""They zap a level-2 table, which in 32-bit and PAE modes is a root in use, hence never freed."""

CASES = [
    pytest.param(loaded, mode, marks=() if loaded.slug in QUICK else pytest.mark.slow)
    for loaded in catalogue.searchable()
    if loaded.scenario.machine is not None
    for mode in loaded.scenario.modes
    if mode != DEFAULT_MODE
]


@pytest.mark.parametrize(("loaded", "mode"), CASES, ids=catalogue.pair_id)
def test_scenario_is_clean_in_every_mode(loaded: LoadedScenario, mode: str) -> None:
    made = prepare(loaded, params={**loaded.scenario.small, "mode": mode})
    result = search(made.world())
    assert (result.verdict, result.complete) == (Verdict.CLEAN, True), result.findings
    assert not result.deadlocks
    assert all(result.goals.values()), result.goals


@pytest.mark.parametrize(
    ("loaded", "bug"),
    [
        pytest.param(loaded, bug, marks=() if loaded.slug in QUICK else pytest.mark.slow)
        for loaded, bug in catalogue.shows()
    ],
    ids=catalogue.pair_id,
)
@pytest.mark.parametrize("mode", ["32-bit", "pae", "5-level"])
def test_bugs_show_in_every_mode(loaded: LoadedScenario, bug: str, mode: str) -> None:
    if mode not in loaded.scenario.modes:
        pytest.skip("the scenario makes no sense there")
    if loaded.slug in FREES_NO_TABLE and mode in ("32-bit", "pae"):
        pytest.skip("nothing is freed there, so nothing is freed too early")
    made = prepare(loaded, params={**loaded.scenario.small, "mode": mode}, bugs=[bug])
    assert search(made.world()).verdict is Verdict.VIOLATED
