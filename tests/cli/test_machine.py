"""A real bug through the command line: found, kept, replayed, reported; its twin clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import Lab
from vmm.engine.hosts import HOSTS

BUG = ("stale_gpte", "--bug", "stale-gpte")


def test_a_bug_is_found_replayed_on_every_host_and_reported(lab: Lab) -> None:
    said = lab.vmm("explore", *BUG, "--json")
    assert said.code == 1
    assert (said.json["scenario"], said.json["bugs"]) == ("stale-gpte", ["stale-gpte"])
    (finding,) = said.json["findings"]
    assert finding["code"] == "audit/spte-agrees"
    assert Path(finding["file"]).is_file()
    for host in HOSTS:
        replayed = lab.vmm("replay", finding["schedule"], "--host", host, "--json")
        assert (replayed.code, replayed.json["verified"]) == (1, True)
    table = lab.vmm("report", finding["file"]).out
    assert "audit/spte-agrees" in table
    assert "v0" in table
    assert "v1" in table


def test_its_twin_is_clean(lab: Lab) -> None:
    said = lab.vmm("explore", "stale_gpte", "--json")
    assert (said.code, said.json["verdict"]) == (0, "clean")
    assert said.json["era"] == "2.6.25"
    assert all(said.json["goals"].values())


@pytest.mark.parametrize("host", HOSTS)
def test_a_machine_runs_alike_on_every_host(lab: Lab, host: str) -> None:
    digest = lab.vmm("run", *BUG, "--seed", 5, "--json").json["digest"]
    assert lab.vmm("run", *BUG, "--seed", 5, "--host", host, "--json").json["digest"] == digest


def test_a_schedule_brings_its_bug_with_it(lab: Lab) -> None:
    token = lab.vmm("explore", *BUG, "--json").json["findings"][0]["schedule"]
    with_bug = lab.vmm("run", "stale_gpte", "--schedule", token, "--json")
    assert (with_bug.code, with_bug.json["bugs"]) == (1, ["stale-gpte"])
