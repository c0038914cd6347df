"""The README's table of the series: 33 rows whose places and tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import catalogue
from tests.names import resolve

ROOT = Path(__file__).parent.parent
ROW = re.compile(r"^\| (\d+) \| ([0-9a-f]{10}) \| (.+?) \| (.+?) \| (.*?) ?\|$", re.MULTILINE)
QUOTED = re.compile(r"`([^`]+)`")
REASON = re.compile(r"(no|none): \w.+")


class Row(NamedTuple):
    number: int
    commit: str
    title: str
    where: str
    shown: str


def rows() -> list[Row]:
    text = (ROOT / "README.md").read_text("utf-8")
    return [Row(int(number), *cells) for number, *cells in ROW.findall(text)]


EACH_ROW = pytest.mark.parametrize("row", rows(), ids=lambda row: str(row.number))


def test_there_are_33_patches() -> None:
    found = rows()
    assert [row.number for row in found] == list(range(1, 34))
    assert len(dict.fromkeys(row.commit for row in found)) == 33


@EACH_ROW
def test_a_place_exists_or_a_reason_is_given(row: Row) -> None:
    places = QUOTED.findall(row.where)
    if not places:
        assert REASON.fullmatch(row.where), row
        return
    for place in places:
        resolve(f"vmm.{place}")


@EACH_ROW
def test_what_shows_it_exists(row: Row) -> None:
    shown = QUOTED.findall(row.shown)
    assert bool(shown) == bool(QUOTED.findall(row.where)), row
    for name in shown:
        path, _, test = name.partition("::")
        if test:
            assert test in top_level(ROOT / "tests" / path), name
        else:
            assert name.replace("_", "-") in [loaded.slug for loaded in catalogue.scenarios()]


def top_level(path: Path) -> list[str]:
    """The functions, classes and values that a test module defines."""
    found: list[str] = []
    for node in ast.parse(path.read_text("utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.append(name)
            case ast.Assign(targets=[ast.Name(id=name)]):
                found.append(name)
    return found
