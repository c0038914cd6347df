"""Stored counterexamples replay on every host, step by step, to the same finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import catalogue
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.hosts.direct import drive
from vmm.engine.schedule import decode
from vmm.report.violation import violation
from vmm.scenario.experiment import reopen
from vmm.search.replay import CheckedRun, replay
from vmm.strategies.recorded import RecordedPicker

CORPUS = Path(__file__).parent
TOKENS = sorted(CORPUS.glob("*.token"))


def test_every_bug_of_every_scenario_is_there() -> None:
    expected = sorted(f"{loaded.slug}.{bug}.token" for loaded, bug in catalogue.shows_in_a_step())
    assert [path.name for path in TOKENS] == expected, "python -m tests.corpus.make"


@pytest.mark.parametrize("path", TOKENS, ids=lambda path: path.stem)
def test_counterexample_replays_on_every_host(path: Path) -> None:
    code, _, token = path.read_text().partition(" ")
    recorded = decode(token.strip())
    world = reopen(recorded).world()
    for host in HOSTS:
        _, outcome = replay(world, recorded, RecordedPicker(recorded.schedule), driver(host))
        assert [finding.code for finding in outcome.findings][:1] == [code], host
        assert outcome.digest == recorded.digest, host


@pytest.mark.parametrize("bug", [b for b in catalogue.bugs() if not catalogue.is_livelock(b)])
def test_race_table_names_the_step_that_the_bug_has_wrong(bug: str) -> None:
    scenario = catalogue.main_scenario(bug).slug
    _, _, token = (CORPUS / f"{scenario}.{bug}.token").read_text().partition(" ")
    recorded = decode(token.strip())
    experiment, picker = reopen(recorded), RecordedPicker(recorded.schedule)
    run = CheckedRun(experiment.world(), picker)
    rows = violation(experiment, run, drive(run)).table().rows
    assert [row.text for row in rows if row.text.startswith("bug ")]
