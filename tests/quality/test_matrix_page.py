"""docs/matrix.md against the bugs that there are and their stored counterexamples."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import catalogue
from vmm.discovery import discover
from vmm.engine.schedule import decode
from vmm.matrix.plan import Pair, plan
from vmm.matrix.rows import matrix
from vmm.matrix.tables import NAMES, document
from vmm.matrix.work import answers, pieces

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "matrix.md"
CORPUS = ROOT / "tests" / "corpus"
AGAIN = "make matrix writes the page anew"
MOST_PREEMPTIONS = 2


class Row(NamedTuple):
    """A row of the page, as text."""

    bug: str
    year: str
    fix: str
    scenario: str
    code: str
    states: str
    steps: str
    switches: str
    preempted: str
    twin: str


def rows() -> list[Row]:
    lines = PAGE.read_text("utf-8").splitlines()
    cells = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]
    return [Row(*row) for row in cells if len(row) > len(NAMES) and row[0] in catalogue.bugs()]


ROWS = pytest.mark.parametrize("row", rows(), ids=lambda row: str(row.bug))


def test_every_bug_has_a_row() -> None:
    assert sorted(Pair(row.bug, row.scenario) for row in rows()) == plan(), AGAIN


@ROWS
def test_a_row_says_what_the_bug_file_says(row: Row) -> None:
    spec = discover("vmm.bugs")[row.bug].SPEC
    assert (row.year, row.fix) == (str(spec.year or "-"), spec.fix or "-"), AGAIN
    assert row.code in spec.caught_by, AGAIN
    assert row.twin != "-", "the fixed twin is clean"


@ROWS
def test_a_row_says_what_the_stored_counterexample_shows(row: Row) -> None:
    if row.code.startswith("livelock/"):
        return
    scenario = row.scenario.rpartition("/")[2]
    code, _, token = (CORPUS / f"{scenario}.{row.bug}.token").read_text().partition(" ")
    tasks = decode(token.strip()).schedule.tasks
    switches = sum(a != b for a, b in pairwise(tasks))
    assert (row.code, row.steps, row.switches) == (code, str(len(tasks)), str(switches)), AGAIN


def test_two_preemptions_suffice() -> None:
    needed = [int(row.preempted) for row in rows() if row.preempted != "-"]
    assert max(needed) <= MOST_PREEMPTIONS


def test_forty_of_them_are_historical() -> None:
    assert sum(row.fix != "-" for row in rows()) >= 40


@pytest.mark.slow
def test_the_page_is_what_the_searches_say() -> None:
    pairs = plan()
    known = dict(answers(pieces(pairs, sampling=False), jobs=2))
    assert document(matrix(pairs, known)) == PAGE.read_text("utf-8"), AGAIN
