"""What the README shows is what happens, and what its table of the series names exists."""

from __future__ import annotations

import ast
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

import vmm.bugs
from tests import catalogue
from tests.names import resolve
from vmm.cli import main

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


README = (ROOT / "README.md").read_text("utf-8")


def rows() -> list[Row]:
    return [Row(int(number), *cells) for number, *cells in ROW.findall(README)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = "".join(blocks("sh")).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.startswith("vmm ")]


def test_the_demo_prints_the_race_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # parallel test runs set it
    (table,) = blocks("text")
    printed = (
        CliRunner().invoke(main, ["run", "stale_gpte", "--bug", "stale-gpte", "--seed", "1"]).output
    )
    *lines, replay = table.splitlines()
    assert "\n".join(lines) in printed
    assert replay.removesuffix("...") in printed


@pytest.mark.parametrize("command", commands())
def test_a_command_has_options_that_exist(command: str) -> None:
    _, name, *args = shlex.split(command)
    found = main.get_command(click.Context(main), name)
    assert found is not None
    found.make_context(name, args)


def test_the_scenario_is_clean_and_reaches_its_goal(tmp_path: Path) -> None:
    (scenario,) = [text for text in blocks("python") if "SCENARIO =" in text]
    (tmp_path / "mine.py").write_text(scenario)
    done = CliRunner().invoke(main, ["explore", str(tmp_path / "mine.py")])
    assert done.exit_code == 0, done.output


def test_the_bug_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bug,) = [text for text in blocks("python") if "SPEC = Bug" in text]
    (tmp_path / "of_the_readme.py").write_text(bug)
    monkeypatch.setattr(vmm.bugs, "__path__", [*vmm.bugs.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    args = ["run", "stale_gpte", "--bug", "of-the-readme", "--seed", "1"]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 1, done.output


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
