"""Bad input: one clear line, and the exit code of the contract."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.lab import LOST_UPDATE, Lab, one_task
from vmm.cli._output import Session

# --- names and values ---


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run lost_updat", "unknown scenario 'lost_updat': did you mean lost-update?"),
        ("run nosuch.py", "no such scenario file: nosuch.py"),
        ("run lost_update --host gevent", "unknown host 'gevent': known: asyncio, direct, trio"),
        ("run lost_update --strategy randm", "unknown strategy 'randm': did you mean random?"),
        ("run lost_update --strategy recorded", "needs a schedule: give --schedule TOKEN"),
        ("run lost_update -p lockd=1", "unknown parameter 'lockd': did you mean locked?"),
        ("run lost_update -p tasks=9", "tasks=9: the value must be a number from 1 to 4"),
        ("run lost_update -p tasks=x", "tasks=x: the value must be a number"),
        ("run lost_update -p unit=hundreds", "must be one of ones, tens"),
        ("run lost_update -p tasks", "write -p NAME=VALUE"),
        ("run lost_update --bug stale-gpte", "builds its world by hand"),
        ("run stale_gpte --bug stale-gpt", "unknown bug 'stale-gpt': did you mean stale-gpte"),
        ("run stale_gpte --era 2.4.0", "unknown era '2.4.0'"),
        ("run lost_update --seed x", "'x' is not a valid integer"),
        ("run lost_update --sede 1", "No such option '--sede'"),
        ("run", "Missing argument 'SCENARIO'"),
        ("rnu lost_update", "No such command 'rnu'"),
        ("run lost_update --trace nodir/x.jsonl", "no directory nodir; mkdir -p nodir"),
        ("run lost_update --trace scenarios", "it is a directory"),
        ("explore lost_update --search bogus", "--search bogus is not in this version"),
        ("explore lost_update --executions 0", "is not in the range"),
        ("replay nonsense", "not a schedule token"),
        ("replay v1.lost-update.AAAA", "damaged or truncated"),
        ("replay findings/none.json", "cannot read findings/none.json: No such file"),
        ("report findings/none.json", "cannot read findings/none.json: No such file"),
        ("report scenarios/lost_update.py", "is not a finding file"),
    ],
)
def test_one_line_and_exit_code_2(lab: Lab, words: str, said: str) -> None:
    result = lab.vmm(*words.split())
    assert result.code == 2
    assert said in result.complaint
    assert result.complaint.startswith("vmm: ")


def test_with_json_the_complaint_is_an_object_too(lab: Lab) -> None:
    said = lab.vmm("run", "nosuch", "--json")
    assert said.code == 2
    assert said.json["command"] == "run"
    assert said.json["findings"] is None
    assert said.json["error"]["code"] == "usage"
    assert "unknown scenario 'nosuch'" in said.json["error"]["message"]
    assert len(said.err.splitlines()) == 1


def test_a_findings_directory_that_cannot_be_made_is_told(lab: Lab) -> None:
    Path("taken").write_text("a file")
    said = lab.vmm("explore", "lost_update", "--findings", "taken/findings")
    assert said.code == 2
    assert "cannot make the directory taken/findings" in said.complaint


# --- scenario files ---


def test_a_syntax_error_is_told_with_its_line(lab: Lab) -> None:
    lab.scenario("bad", "\n\nx = = 1\n")
    said = lab.vmm("run", "bad")
    assert (said.code, said.complaint) == (
        2,
        "vmm: scenarios/bad.py:3: invalid syntax; mend it",
    )


def test_an_exception_of_a_task_is_told_with_its_line_and_function(lab: Lab) -> None:
    lab.scenario("bad", one_task("await cell\n        raise RuntimeError('no luck')"))
    for words in (("run", "bad"), ("explore", "bad"), ("explore", "bad", "--search", "random")):
        said = lab.vmm(*words)
        assert said.code == 2
        assert "scenarios/bad.py:12 in worker: RuntimeError: no luck" in said.complaint


def test_an_exception_of_a_builder_is_told_with_its_line(lab: Lab) -> None:
    lab.scenario("bad", one_task("await cell").replace('"cell", 0', '"cell", 1 // 0'))
    said = lab.vmm("run", "bad")
    assert said.code == 2
    assert "scenarios/bad.py:8 in build: ZeroDivisionError" in said.complaint


def test_the_verbose_option_shows_the_traceback(lab: Lab) -> None:
    lab.scenario("bad", one_task("raise RuntimeError('no luck')"))
    said = lab.vmm("run", "bad", "-v")
    assert said.code == 2
    assert "Traceback" in said.err
    assert "bad.py" in said.err


@pytest.mark.parametrize("host", ["direct", "asyncio", "trio"])
@pytest.mark.parametrize("seconds", ["0", "0.01"])
def test_asyncio_sleep_is_refused_on_every_host(lab: Lab, host: str, seconds: str) -> None:
    lab.scenario("sleepy", one_task(f"await asyncio.sleep({seconds})", "import asyncio"))
    said = lab.vmm("run", "sleepy", "--host", host)
    assert said.code == 2
    assert "a task may await only cells, ops and model objects" in said.complaint
    assert "worker" in said.complaint


@pytest.mark.parametrize("host", ["direct", "trio"])
def test_trio_sleep_is_refused_on_every_host(lab: Lab, host: str) -> None:
    lab.scenario("sleepy", one_task("await trio.sleep(0)", "import trio"))
    said = lab.vmm("run", "sleepy", "--host", host)
    assert said.code == 2
    assert "a task may await only cells, ops and model objects" in said.complaint


def test_a_set_in_a_local_is_refused_by_a_search(lab: Lab) -> None:
    lab.scenario("sets", one_task("seen = {1, 2}\n        await cell\n        len(seen)"))
    assert lab.vmm("run", "sets").code == 0
    said = lab.vmm("explore", "sets")
    assert said.code == 2
    assert "seen" in said.complaint
    assert "worker" in said.complaint


def test_a_bug_in_vmm_is_told_as_one_with_the_command_that_shows_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vmm.search import replay

    monkeypatch.setattr(replay, "rolled", None)
    said = lab.vmm("run", "lost_update", "--seed", 3)
    assert said.code == 3
    assert "[vmm bug] TypeError: 'NoneType' object is not callable, at vmm" in said.complaint
    assert "reproduce: vmm run lost-update" in said.complaint
    assert "--seed 3" in said.complaint


def test_ctrl_c_ends_with_130(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from vmm.engine.live import Run

    def interrupted(self: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "begin", interrupted)
    assert lab.vmm("run", "lost_update").code == 130
    said = lab.vmm("explore", "lost_update", "--search", "random", "--json")
    assert said.code == 130
    assert said.json["executions"] == 0
    assert said.err == "vmm: interrupted; what was found so far is kept\n"


def test_ctrl_c_in_an_exhaustive_search_keeps_what_was_seen(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "progress", lambda *_: nullcontext(interrupted))
    said = lab.vmm("explore", "lost_update", "-p", "locked=1", "--json")
    assert (said.code, said.json["verdict"], said.json["complete"]) == (130, "incomplete", False)
    assert said.json["states"] > 0


# --- schedules ---


@pytest.fixture
def token(lab: Lab) -> str:
    made: str = lab.vmm("run", "lost_update", "--json").json["schedule"]
    return made


@pytest.mark.parametrize("command", [("replay",), ("run", "lost_update", "--schedule")])
def test_a_schedule_of_an_edited_scenario_is_stale(
    lab: Lab, token: str, command: tuple[str, ...]
) -> None:
    lab.scenario("lost_update", LOST_UPDATE + "# edited\n")
    said = lab.vmm(*command, token, "--json")
    assert said.code == 2
    assert said.json["error"]["code"] == "schedule/stale"
    assert "was edited since the schedule was recorded" in said.err


def test_a_schedule_of_another_scenario_is_refused(lab: Lab, token: str) -> None:
    said = lab.vmm("run", "opposite_locks", "--schedule", token)
    assert said.code == 2
    assert "the schedule is of the scenario lost-update, not of opposite-locks" in said.complaint


def test_a_schedule_whose_scenario_is_gone_is_told(lab: Lab, token: str) -> None:
    (lab.path / "scenarios" / "lost_update.py").unlink()
    said = lab.vmm("replay", token)
    assert said.code == 2
    assert "unknown scenario 'lost-update'" in said.complaint


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_truncated_token_is_told(lab: Lab, token: str, cut: int) -> None:
    said = lab.vmm("replay", token[:-cut])
    assert said.code == 2
    assert "copy the whole last line of the report" in said.complaint


def test_a_finding_file_of_another_format_is_told(lab: Lab) -> None:
    file = Path(lab.vmm("explore", "lost_update", "--json").json["findings"][0]["file"])
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "vmm_finding": 99}))
    said = lab.vmm("replay", file)
    assert said.code == 2
    assert "has the format 99" in said.complaint
