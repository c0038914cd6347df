"""docs/points.md against the bugs that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import catalogue
from vmm.discovery import discover

PAGE = (Path(__file__).parents[2] / "docs" / "points.md").read_text("utf-8")
ROW = re.compile(r"^\| (S\d+) \| .+ \| `[\w.]+` \| (.+) \|$", re.MULTILINE)
QUOTED = re.compile(r"`([^`/]+)`")
REASON = re.compile(r"(covered|equivalent|not modelled): .+")
ROWS = dict(ROW.findall(PAGE))
POINTS = 61


def test_every_point_has_a_row() -> None:
    assert list(ROWS) == [f"S{number}" for number in range(1, POINTS + 1)]


@pytest.mark.parametrize(("point", "shown"), ROWS.items())
def test_a_point_is_shown_by_bugs_or_there_is_a_reason(point: str, shown: str) -> None:
    bugs = QUOTED.findall(shown)
    assert bugs or REASON.fullmatch(shown), point
    assert all(bug in catalogue.bugs() for bug in bugs), point


def test_a_mutant_stands_where_it_says() -> None:
    for name, module in discover("vmm.bugs").items():
        for point in module.SPEC.points:
            assert f"`{name}`" in ROWS[point], f"{name} takes {point} away"


def test_what_is_not_modelled_has_no_file() -> None:
    _, _, table = PAGE.partition("## Bugs that are not modelled")
    missing = re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)
    assert missing
    assert not [bug for bug in missing if bug in catalogue.bugs()]
