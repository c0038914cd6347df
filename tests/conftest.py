"""Fixtures of the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.lab import DEADLOCK, LOST_UPDATE, Lab

pytest_plugins = ("pytester",)

settings.register_profile("few", max_examples=30, stateful_step_count=25, deadline=None)
settings.register_profile("many", max_examples=500, stateful_step_count=40, deadline=None)
settings.load_profile("few")


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A directory with the scenarios lost-update and deadlock; the test runs in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    made = Lab(tmp_path)
    made.scenario("lost_update", LOST_UPDATE)
    made.scenario("opposite_locks", DEADLOCK)
    return made
