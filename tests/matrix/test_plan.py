"""Each bug has a scenario, and those without one are told of."""

from __future__ import annotations

import pytest

from tests import catalogue
from vmm.bugs import Bug
from vmm.errors import UsageError
from vmm.matrix.plan import Pair, plan, scenario_of

UNNAMED = Bug(title="a bug", source="a test", caught_by=("audit/none",))


def test_every_bug_has_its_scenario() -> None:
    assert [pair.bug for pair in plan()] == sorted(catalogue.bugs())


def test_the_scenario_of_the_bugs_name_comes_first() -> None:
    assert scenario_of("stale-gpte", UNNAMED, catalogue.scenarios()).slug == "stale-gpte"


def test_a_bug_may_name_its_scenario_itself() -> None:
    named = Bug(title="a bug", source="a test", caught_by=(), scenario="januscape")
    assert scenario_of("stale-gpte", named, catalogue.scenarios()).slug == "januscape"


def test_named_bugs_alone() -> None:
    assert plan(["januscape", "stale_gpte", "januscape"]) == [
        Pair("januscape", "januscape"),
        Pair("stale-gpte", "stale-gpte"),
    ]


def test_unknown_and_unshown_bugs() -> None:
    with pytest.raises(UsageError, match="did you mean januscape"):
        plan(["janusscape"])
    with pytest.raises(UsageError, match="no scenario shows the bug shown-nowhere"):
        scenario_of("shown-nowhere", UNNAMED, catalogue.scenarios())
