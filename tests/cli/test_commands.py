"""What the commands say, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, Said, one_task
from vmm import __version__

EVERY = ("command", "version", "scenario", "bugs", "era", "params", "seconds", "findings", "goals")
FINDING = ("code", "message", "fingerprint", "steps", "switches", "schedule", "file")
RUN = ("seed", "strategy", "host", "steps", "ending", "digest", "schedule")
EXHAUSTIVE = (
    "search", "complete", "verdict", "states", "transitions", "depth", "states_per_second",
    "local_states", "terminal_states", "reduction", "collision_bound", "startup_seconds", "engine",
)  # fmt: skip
SAMPLING = (
    "search", "executions", "steps", "steps_per_second", "first_failure", "classes", "unseen_mass",
    "verdict", "startup_seconds",
)  # fmt: skip


def last_line(said: Said) -> str:
    return said.out.splitlines()[-1]


# --- run ---


def test_a_run_that_finds_nothing_says_so(lab: Lab) -> None:
    said = lab.vmm("run", "lost_update", "-p", "locked=1", "--seed", 7)
    assert said.code == 0
    assert "quiescent" in said.out
    assert "seed 7" in said.out
    assert last_line(said).startswith(" replay  vmm replay v1.lost-update.")


def test_a_run_with_a_finding_ends_with_the_replay_command(lab: Lab) -> None:
    said = lab.vmm("run", "lost_update", "--seed", 1)
    assert said.code == 1
    assert "counter/lost-update" in said.out
    words = last_line(said).split()
    assert words[:3] == ["replay", "vmm", "replay"]
    assert lab.vmm("replay", words[3]).code == 1


def test_the_keys_of_a_run_are_those_of_the_contract(lab: Lab) -> None:
    said = lab.vmm("run", "lost_update", "--json")
    assert [key for key in (*EVERY, *RUN) if key not in said.json] == []
    assert said.json["command"] == "run"
    assert said.json["version"] == __version__
    assert said.json["params"] == {"locked": 0, "tasks": 2, "unit": "ones"}
    assert said.json["goals"] == {"all added": True}
    (finding,) = said.json["findings"]
    assert [key for key in FINDING if key not in finding] == []
    assert said.err == ""


@pytest.mark.parametrize("host", ["direct", "asyncio", "trio"])
def test_hosts_agree(lab: Lab, host: str) -> None:
    digests = [
        lab.vmm("run", "lost_update", "--json", "--host", name).json["digest"]
        for name in ("direct", host)
    ]
    assert digests[0] == digests[1]


def test_seeds_differ(lab: Lab) -> None:
    digests = [lab.vmm("run", "lost_update", "--json", "--seed", s).json["digest"] for s in (1, 2)]
    assert digests[0] != digests[1]


def test_a_deadlock_is_a_finding(lab: Lab) -> None:
    said = [lab.vmm("run", "opposite_locks", "--seed", seed, "--json") for seed in range(1, 20)]
    found = next(one for one in said if one.code == 1)
    assert found.json["ending"] == "deadlock"
    assert found.json["findings"][0]["code"] == "deadlock/stuck"


def test_a_schedule_runs_again_where_it_came_from(lab: Lab) -> None:
    first = lab.vmm("run", "lost_update", "--json", "--seed", 1).json
    again = lab.vmm("run", "lost_update", "--json", "--schedule", first["schedule"])
    assert again.code == 1
    assert again.json["digest"] == first["digest"]
    assert (again.json["seed"], again.json["strategy"]) == (None, "recorded")


def test_a_schedule_brings_its_parameters_and_options_override_them(lab: Lab) -> None:
    first = lab.vmm("run", "lost_update", "-p", "tasks=3", "--json", "--seed", 1).json
    again = lab.vmm("run", "lost_update", "--json", "--schedule", first["schedule"])
    assert again.json["params"]["tasks"] == 3
    other = lab.vmm("run", "lost_update", "-p", "locked=1", "--schedule", first["schedule"])
    assert other.code == 3
    assert "was recorded" in other.complaint


def test_a_trace_file_has_a_line_a_step(lab: Lab) -> None:
    said = lab.vmm("run", "lost_update", "--json", "--trace", "run.jsonl")
    header, *steps, outcome = map(json.loads, Path("run.jsonl").read_text().splitlines())
    assert header["vmm_trace"] == 1
    assert header["scenario"] == "lost-update"
    assert [task["name"] for task in header["tasks"]] == ["adder 0", "adder 1"]
    assert len(steps) == said.json["steps"]
    assert outcome["digest"] == said.json["digest"]


def test_a_long_schedule_is_kept_in_a_file_that_the_last_line_names(lab: Lab) -> None:
    lab.scenario("long", _long())
    said = lab.vmm("run", "long")
    assert said.code == 1
    file = last_line(said).split()[-1]
    assert file.startswith("findings/long-")
    assert len(json.loads(Path(file).read_text())["schedule"]) > 2000
    assert lab.vmm("replay", file).code == 1


def _long() -> str:
    body = "for _ in range(1500):\n            await cell.set(await cell + 1)\n"
    body += "        await audit_point('end')"
    monitor = """
    class Always(Monitor):
        name = "always/fails"
        events = (AuditPoint,)
        def on_event(self, state, event, step, view):
            return state, (Finding(self.name, "always", "never", "a test", ("cell",)),)
    world.monitors.append(Always())
    world.task("other", worker)
"""
    imports = "from vmm.scenario import AuditPoint, Finding, Monitor, audit_point"
    return one_task(body, imports, monitor)


# --- explore ---


def test_an_exhaustive_search_finds_the_shortest_and_keeps_it(lab: Lab) -> None:
    said = lab.vmm("explore", "lost_update", "--json")
    assert said.code == 1
    assert [key for key in (*EVERY, *EXHAUSTIVE) if key not in said.json] == []
    assert said.json["verdict"] == "violated"
    (finding,) = said.json["findings"]
    assert finding["steps"] == 8
    assert Path(finding["file"]).is_file()
    assert lab.vmm("replay", finding["file"]).code == 1


def test_an_exhaustive_search_proves_the_twin_clean(lab: Lab) -> None:
    said = lab.vmm("explore", "lost_update", "-p", "locked=1", "--json")
    assert said.code == 0
    assert said.json["verdict"] == "clean"
    assert said.json["complete"] is True
    assert said.json["terminal_states"] == 1
    assert not Path("findings").exists()


def test_a_budget_that_runs_out_is_incomplete(lab: Lab) -> None:
    said = lab.vmm("explore", "lost_update", "-p", "locked=1", "--max-states", 5, "--json")
    assert (said.code, said.json["verdict"]) == (4, "incomplete")
    late = lab.vmm("explore", "lost_update", "-p", "locked=1", "--seconds", 0, "--json")
    assert (late.code, late.json["verdict"]) == (4, "incomplete")


def test_sampling_stops_at_the_first_failure(lab: Lab) -> None:
    words = ("explore", "lost_update", "--search", "random", "--seed", 2, "--json")
    said = lab.vmm(*words, "--executions", 1000)
    assert said.code == 1
    assert [key for key in (*EVERY, *SAMPLING) if key not in said.json] == []
    first = said.json["first_failure"]
    assert first == said.json["executions"]
    assert lab.vmm("run", "lost_update", "--seed", 2 + first - 1).code == 1


def test_sampling_that_finds_nothing_is_never_clean(lab: Lab) -> None:
    said = lab.vmm(
        "explore",
        "lost_update",
        "-p",
        "locked=1",
        "--search",
        "random",
        "--executions",
        50,
        "--json",
    )
    assert (said.code, said.json["verdict"]) == (4, "incomplete")
    assert said.json["first_failure"] is None
    assert said.json["executions"] == 50
    assert said.json["classes"] >= 2


def test_explore_prints_the_table_and_the_command_last(lab: Lab) -> None:
    said = lab.vmm("explore", "lost_update")
    assert "lost-update   counter/lost-update   5 of 8 steps" in said.out
    assert last_line(said).startswith(" replay  vmm replay ")


def test_finding_again_makes_no_other_file(lab: Lab) -> None:
    for search in ("exhaustive", "random"):
        lab.vmm("explore", "lost_update", "--search", search, "--findings", "kept")
    assert len(list(Path("kept").iterdir())) == 1


# --- replay ---


@pytest.mark.parametrize("host", ["direct", "asyncio", "trio"])
def test_a_replay_verifies_on_every_host(lab: Lab, host: str) -> None:
    first = lab.vmm("run", "lost_update", "--json", "--seed", 1).json
    said = lab.vmm("replay", first["schedule"], "--host", host, "--json")
    assert said.code == 1
    wanted = {"verified": True, "step": None, "ending": "finding", "host": host}
    assert {key: said.json[key] for key in wanted} == wanted
    assert said.json["digest"] == first["digest"]


def test_a_replay_without_a_finding_ends_with_zero(lab: Lab) -> None:
    token = lab.vmm("run", "lost_update", "-p", "locked=1", "--json").json["schedule"]
    assert lab.vmm("replay", token).code == 0


def test_a_replay_that_diverges_names_the_step(lab: Lab) -> None:
    lab.scenario("fickle", _fickle())
    Path("mode").write_text("0")
    token = lab.vmm("run", "fickle", "--json").json["schedule"]
    Path("mode").write_text("1")
    said = lab.vmm("replay", token, "--json")
    assert said.code == 3
    assert (said.json["verified"], said.json["step"]) == (False, 2)
    assert "step 2" in said.err


def _fickle() -> str:
    body = "await cell\n        await (cell if Path('mode').read_text() == '0' else other)"
    text = one_task(body, "from pathlib import Path")
    return text.replace("    async def", "    other = world.cell('other', 0)\n    async def")


# --- report and list ---


def test_a_report_shows_the_table_of_a_finding_file(lab: Lab) -> None:
    file = lab.vmm("explore", "lost_update", "--json").json["findings"][0]["file"]
    said = lab.vmm("report", file)
    assert said.code == 0
    assert said.out.startswith("lost-update   counter/lost-update   5 of 8 steps")
    rows = lab.vmm("report", file, "--json").json["rows"]
    assert rows[-1]["violates"] is True


def test_a_report_of_an_edited_scenario_shows_the_table_of_that_time(lab: Lab) -> None:
    file = lab.vmm("explore", "lost_update", "--json").json["findings"][0]["file"]
    lab.scenario("lost_update", (lab.path / "scenarios/lost_update.py").read_text() + "\n")
    said = lab.vmm("report", file)
    assert said.code == 0
    assert "was edited" in said.err
    assert "counter/lost-update" in said.out
    assert lab.vmm("report", file, "--json").json["stale"] is True


def test_a_list_names_everything_with_its_source(lab: Lab) -> None:
    said = lab.vmm("list", "--json")
    sections: dict[str, list[dict[str, Any]]] = {
        name: said.json[name] for name in ("scenarios", "bugs", "strategies", "monitors", "eras")
    }
    for entries in sections.values():
        assert entries
        assert all(entry["name"] and entry["title"] and entry["source"] for entry in entries)
    assert "lost-update" in [entry["name"] for entry in sections["scenarios"]]
    assert "lost-update" in lab.vmm("list").out


def test_a_list_leaves_broken_scenarios_out_and_says_so(lab: Lab) -> None:
    lab.scenario("broken", "(")
    said = lab.vmm("list", "--json")
    assert said.code == 0
    assert "scenarios/broken.py:1" in said.err
