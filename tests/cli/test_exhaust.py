"""What ``vmm explore --search exhaustive`` says beyond its verdict."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab
from tests.search.worlds import SCENARIOS
from vmm.search import exhaustive
from vmm.search.result import Result

CALIBRATION = SCENARIOS / "calibration" / "notifier_retry.py"


def test_the_reference_search_says_the_same(lab: Lab) -> None:
    fast, slow = [
        lab.vmm("explore", "lost_update", "-p", "locked=1", "--search", name, "--json").json
        for name in ("exhaustive", "reference")
    ]
    same = ("verdict", "states", "transitions", "depth", "local_states", "terminal_states", "goals")
    assert [fast[key] for key in same] == [slow[key] for key in same]
    assert slow["collision_bound"] == 0 < fast["collision_bound"]


def test_other_hashes_confirm(lab: Lab) -> None:
    said = lab.vmm("explore", CALIBRATION, "--rehash", "--reduction", "none", "--json")
    assert (said.code, said.json["rehashed"], said.json["states"]) == (0, True, 3_741)
    assert "other hashes give the same counts" in lab.vmm("explore", CALIBRATION, "--rehash").out
    assert lab.vmm("explore", CALIBRATION, "--json").json["rehashed"] is None


def test_hashes_that_disagree_prove_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    search = exhaustive.search

    def misses_some(*args: object, seed: int = 1, **options: object) -> Result:
        return search(*args, seed=seed, monitors=seed == 1, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(exhaustive, "search", misses_some)
    said = lab.vmm("explore", CALIBRATION, "-p", "guard=0", "-p", "vcpus=1", "--rehash", "--json")
    assert (said.code, said.json["rehashed"]) == (1, None)  # a violation needs no confirmation
    monkeypatch.setattr("vmm.cli._exhaust._counts", id)
    said = lab.vmm("explore", CALIBRATION, "--rehash", "--json")
    assert (said.code, said.json["verdict"], said.json["rehashed"]) == (4, "incomplete", False)


def test_the_engine_is_said_and_compiling_counts_as_start_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("explore", CALIBRATION, "--json", "--reduction", "none", "--engine")
    plain, compiled = [lab.vmm(*words, engine).json for engine in ("numpy", "numba")]
    assert [said["engine"] for said in (plain, compiled)] == ["numpy", "numba"]
    same = ("verdict", "states", "transitions", "depth", "local_states", "terminal_states")
    assert [plain[key] for key in same] == [compiled[key] for key in same]

    search = exhaustive.search

    def compiles_for_long(*args: Any, **options: Any) -> Result:
        return replace(search(*args, **options), startup_seconds=1000.0)

    monkeypatch.setattr(exhaustive, "search", compiles_for_long)
    said = lab.vmm(*words, "numba").json
    assert said["seconds"] < 0
    assert said["startup_seconds"] > 1000


def test_one_job_does_what_more_were_asked_for(lab: Lab) -> None:
    words = ("explore", CALIBRATION, "--jobs", 2)
    assert lab.vmm(*words, "--json").json["jobs"] == 1
    assert "1 of 2: only the loops of numba run on several threads" in lab.vmm(*words).out
    said = lab.vmm(*words, "--engine", "numba", "--json").json
    assert (said["jobs"], said["states"]) == (2, 2_694)


def test_the_reference_search_has_one_engine(lab: Lab) -> None:
    said = lab.vmm("explore", CALIBRATION, "--search", "reference", "--engine", "numba")
    assert (said.code, said.complaint.endswith("leave --engine out")) == (2, True)


def test_numba_must_be_there_to_be_asked_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "is_installed", lambda: False)
    said = lab.vmm("explore", CALIBRATION, "--engine", "numba")
    assert said.code == 2
    assert "pip install 'vmm[fast]'" in said.complaint
    assert lab.vmm("explore", CALIBRATION, "--json").json["engine"] == "numpy"


def test_memory_is_a_budget(lab: Lab) -> None:
    words = ("explore", CALIBRATION, "-p", "vcpus=3", "--max-memory", 1)
    said = lab.vmm(*words, "--json")
    assert (said.code, said.json["verdict"]) == (4, "incomplete")
    assert 0 < said.json["states"] < 84_233
    assert "outgrown --max-memory" in lab.vmm(*words).out


@pytest.mark.parametrize("option", [("--rehash",), ("--max-memory", 5)])
def test_the_reference_search_has_no_hashes_and_counts_no_bytes(
    lab: Lab, option: tuple[object, ...]
) -> None:
    said = lab.vmm("explore", CALIBRATION, "--search", "reference", *option)
    assert said.code == 2
    assert "leave --rehash and --max-memory out" in said.complaint
    assert not Path("findings").exists()
