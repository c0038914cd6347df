"""Stored counterexamples replay on every host, step by step, to the same finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import catalogue
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.schedule import decode
from vmm.scenario.experiment import reopen
from vmm.search.replay import replay
from vmm.strategies.recorded import RecordedPicker

TOKENS = sorted(Path(__file__).parent.glob("*.token"))


def test_every_bug_of_every_scenario_is_there() -> None:
    expected = sorted(f"{loaded.slug}.{bug}.token" for loaded, bug in catalogue.shows_in_a_step())
    assert [path.name for path in TOKENS] == expected, "python -m tests.corpus.make"


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", TOKENS, ids=lambda path: path.stem)
def test_counterexample_replays(path: Path, host: str) -> None:
    code, _, token = path.read_text().partition(" ")
    recorded = decode(token.strip())
    _, outcome = replay(
        reopen(recorded).world(), recorded, RecordedPicker(recorded.schedule), driver(host)
    )
    assert [finding.code for finding in outcome.findings][:1] == [code]
    assert outcome.digest == recorded.digest
