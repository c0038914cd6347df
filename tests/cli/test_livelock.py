"""A livelock through the command line: found, shown with its round, replayed; its twin clean."""

from __future__ import annotations

import pytest

from tests.lab import Lab
from tests.search.worlds import SCENARIOS

STALE_SPIN = SCENARIOS / "stale_spin.py"


def test_a_guest_that_loops_on_a_stale_entry_is_found(lab: Lab) -> None:
    found = lab.vmm("explore", STALE_SPIN, "-p", "flush=0", "--json")
    assert found.code == 1
    (finding,) = found.json["findings"]
    assert finding["code"] == "livelock/inescapable"
    assert lab.vmm("explore", STALE_SPIN, "-p", "flush=1").code == 0


def test_the_table_says_from_where_it_repeats(lab: Lab) -> None:
    shown = lab.vmm("explore", STALE_SPIN, "-p", "flush=0").out
    assert "-- from here on, for ever --" in shown
    assert "guest goes" in shown


@pytest.mark.parametrize("host", ["direct", "asyncio", "trio"])
def test_its_token_closes_the_round_on_every_host(lab: Lab, host: str) -> None:
    found = lab.vmm("explore", STALE_SPIN, "-p", "flush=0", "--json").json["findings"][0]
    said = lab.vmm("replay", found["schedule"], "--host", host, "--json")
    assert (said.code, said.json["verified"], said.json["ending"]) == (1, True, "finding")
    # A run shows the round; that no way leads out of it is known to the search and to the file.
    assert [entry["code"] for entry in said.json["findings"]] == ["livelock/fair"]
    said = lab.vmm("replay", found["file"], "--host", host, "--json")
    assert [entry["code"] for entry in said.json["findings"]] == ["livelock/inescapable"]
