"""The shipped scenarios and what they promise, for tests that go through all of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from vmm.discovery import discover
from vmm.matrix.plan import scenario_of
from vmm.scenario.experiment import Experiment, prepare
from vmm.scenario.loading import LoadedScenario, load

SCENARIOS = Path(__file__).parent.parent / "scenarios"
RECORDED = "linux-guest"
"""Not a world to be searched whole: a long recorded guest."""


@cache
def scenarios() -> tuple[LoadedScenario, ...]:
    """Every shipped scenario, by path."""
    paths = sorted(SCENARIOS.rglob("*.py"))
    return tuple(load(str(path)) for path in paths if not path.name.startswith("_"))


@cache
def searchable() -> tuple[LoadedScenario, ...]:
    """Those that are small enough to be searched whole."""
    return tuple(loaded for loaded in scenarios() if loaded.slug != RECORDED)


@cache
def shows() -> tuple[tuple[LoadedScenario, str], ...]:
    """Each scenario with each bug that one of both says it shows."""
    own = [(bug, module.SPEC.scenario) for bug, module in discover("vmm.bugs").items()]
    return tuple(
        (loaded, bug)
        for loaded in searchable()
        for bug in (*loaded.scenario.bugs, *(bug for bug, name in own if name == loaded.name))
    )


def small(loaded: LoadedScenario, *bugs: str) -> Experiment:
    """The experiment with the parameters of exhaustive tests."""
    return prepare(loaded, params=loaded.scenario.small, bugs=bugs)


def pair_id(value: object) -> str | None:
    """A readable test id."""
    return value.slug if isinstance(value, LoadedScenario) else str(value)


@cache
def main_scenario(bug: str) -> LoadedScenario:
    """The scenario that shows a bug best."""
    return scenario_of(bug, discover("vmm.bugs")[bug].SPEC, searchable())


@cache
def bugs() -> tuple[str, ...]:
    """The public names of all bugs."""
    return tuple(discover("vmm.bugs"))


@cache
def is_livelock(bug: str) -> bool:
    """Whether a search shows it by a livelock, which no single step is."""
    return bool(discover("vmm.bugs")[bug].SPEC.caught_by[0].startswith("livelock/"))


@cache
def shows_in_a_step() -> tuple[tuple[LoadedScenario, str], ...]:
    """Those of ``shows`` that a finding ends, not a livelock."""
    return tuple((loaded, bug) for loaded, bug in shows() if not is_livelock(bug))
