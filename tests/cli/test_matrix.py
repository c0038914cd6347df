"""vmm matrix: what it says, and how it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import vmm.bugs
from tests.lab import Lab
from vmm.matrix import work

QUICK = ("--bug", "zap-flush-accumulate", "--bug", "request-mode-dekker", "--jobs", "1")
ROW_KEYS = {
    "bug", "scenario", "found", "code", "states", "executions", "switches", "fixed_clean", "source",
    "steps", "expected", "historical", "schedule",
}  # fmt: skip

NEW_BUG = '''
"""A bug that no one made: every store to a table is believed to be protected already."""

from vmm.bugs import Bug
from vmm.mmu import shadowing


class Shadowing(shadowing.Shadowing):
    async def clear_writable(self, ref):
        {body}


SPEC = Bug(
    title="sptes keep W when their frame becomes a table", year=2026, fix="none", source="a test",
    caught_by=("audit/write-protection",), scenario="remote-flush-missing",
)
'''


@pytest.fixture
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of further bugs, with a file ``never_protected.py`` to be written."""
    monkeypatch.setattr(vmm.bugs, "__path__", [*vmm.bugs.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path / "never_protected.py"
    sys.modules.pop("vmm.bugs.never_protected", None)
    vars(vmm.bugs).pop("never_protected", None)


def test_one_json_object_with_a_row_a_bug(lab: Lab) -> None:
    said = lab.vmm("matrix", *QUICK, "--json")
    data = said.json
    assert (said.code, data["killed"], data["total"], data["false_positives"]) == (0, 2, 2, 0)
    assert (data["command"], data["scenario"]) == ("matrix", None)
    first, second = data["rows"]
    assert first.keys() >= ROW_KEYS
    assert (first["bug"], second["bug"]) == ("request-mode-dekker", "zap-flush-accumulate")
    assert first["found"] is first["fixed_clean"] is first["historical"] is True
    assert first["code"] in first["expected"]
    assert first["executions"] is None


def test_a_table_for_people_and_one_for_documents(lab: Lab) -> None:
    said = lab.vmm("matrix", *QUICK, "--markdown", "made.md")
    assert said.code == 0
    assert "2 of 2 bugs found" in said.out
    assert "isolation/page-given-back" in said.out
    assert "| `zap-flush-accumulate` | 2022 |" in (lab.path / "made.md").read_text()
    assert "no directory" in lab.vmm("matrix", "--markdown", "nowhere/made.md").complaint


def test_a_new_bug_is_one_file(lab: Lab, dropped: Path) -> None:
    """Dropped into a directory of bugs, it is listed, switched on, found, and gone without it."""
    dropped.write_text(NEW_BUG.format(body="return False"))
    listed = lab.vmm("list", "--json").json["bugs"]
    assert "never-protected" in [bug["name"] for bug in listed]
    said = lab.vmm("matrix", "--bug", "never-protected", "--jobs", "1", "--json")
    (row,) = said.json["rows"]
    assert (said.code, row["code"], row["fixed_clean"]) == (0, "audit/write-protection", True)
    assert lab.vmm("replay", row["schedule"]).code == 1


def test_mutants_are_listed_apart(lab: Lab) -> None:
    listed = {bug["name"]: bug["historical"] for bug in lab.vmm("list", "--json").json["bugs"]}
    assert (listed["stale-gpte"], listed["flush-then-clear"]) == (True, False)
    _, _, mutants = lab.vmm("list").out.partition("mutants")
    assert "flush-then-clear" in mutants
    assert "stale-gpte" not in mutants


def test_a_bug_that_is_not_found_fails(lab: Lab, dropped: Path) -> None:
    dropped.write_text(NEW_BUG.format(body="return await super().clear_writable(ref)"))
    said = lab.vmm("matrix", "--bug", "never-protected", "--jobs", "1", "--json")
    (row,) = said.json["rows"]
    assert (said.code, said.json["killed"], row["found"], row["code"]) == (1, 0, False, None)
    assert "never-protected: remote-flush-missing shows nothing" in said.err


def test_ctrl_c_keeps_what_there_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(wanted: Sequence[work.Piece], jobs: int) -> Iterator[object]:
        assert jobs == 1
        yield wanted[-1], work.answer(wanted[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(work, "answers", interrupted)
    said = lab.vmm("matrix", *QUICK, "--json")
    assert (said.code, said.json["interrupted"], said.json["killed"]) == (130, True, 1)
    assert [row["found"] for row in said.json["rows"]] == [None, True]
    assert "what was searched so far is kept" in said.err


def test_bad_input(lab: Lab) -> None:
    said = lab.vmm("matrix", "--bug", "stale-pte")
    assert (said.code, "did you mean stale-gpte" in said.complaint) == (2, True)
