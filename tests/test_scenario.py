"""Scenario files: found, loaded, checked, and made into experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.lab import LOST_UPDATE, Lab, one_task
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.errors import UsageError
from vmm.scenario import MachineConfig, Parameter, Scenario
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import LoadedScenario, files, find, load

# --- finding ---


@pytest.mark.parametrize("name", ["lost_update", "lost-update", "scenarios/lost_update.py"])
def test_a_scenario_goes_by_its_name_or_path(lab: Lab, name: str) -> None:
    loaded = load(name)
    assert (loaded.name, loaded.slug) == ("lost-update", "lost-update")
    assert loaded.path == Path("scenarios/lost_update.py")


def test_a_scenario_in_a_subfolder_goes_by_its_last_part_too(lab: Lab) -> None:
    lab.scenario("basics/one_task", one_task("await cell"))
    assert load("one_task").name == load("basics/one-task").name == "basics/one-task"
    assert load("one_task").slug == "one-task"


def test_two_files_of_one_name_must_be_told_apart(lab: Lab) -> None:
    lab.scenario("a/one_task", one_task("await cell"))
    lab.scenario("b/one_task", one_task("await cell"))
    with pytest.raises(UsageError, match=r"may be .*a/one_task\.py or .*b/one_task\.py"):
        find("one_task")
    assert load("b/one-task").name == "b/one-task"


def test_a_file_elsewhere_goes_by_its_path(lab: Lab) -> None:
    (lab.path / "mine.py").write_text(one_task("await cell"))
    assert load("mine.py").name == "mine.py"
    assert load(str(lab.path / "mine.py")).name == "mine.py"


def test_a_file_that_ours_shadows_goes_by_its_path(lab: Lab) -> None:
    ours = next(path for path in files() if path.stem == "stale_gpte")
    lab.scenario("stale_gpte", one_task("await cell"))
    assert load("stale-gpte").scenario.title == "one task"
    assert load(str(ours)).name == ours.as_posix()


def test_a_folder_beside_comes_first(lab: Lab) -> None:
    beside = lab.path / "tests"
    beside.mkdir()
    (beside / "lost_update.py").write_text(one_task("await cell"))
    assert load("lost_update", beside=beside).scenario.title == "one task"
    assert load("lost_update.py", beside=beside).scenario.title == "one task"


def test_helpers_and_data_are_no_scenarios(lab: Lab) -> None:
    lab.scenario("_helper", "")
    assert "_helper" not in [path.stem for path in files()]


def test_the_fingerprint_is_of_the_content(lab: Lab) -> None:
    before = load("lost_update").fingerprint
    assert load("lost_update").fingerprint == before
    lab.scenario("lost_update", LOST_UPDATE + "# edited\n")
    assert load("lost_update").fingerprint != before


def test_scenarios_may_define_dataclasses(lab: Lab) -> None:
    record = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Record:\n    x: int\n"
    )
    lab.scenario("records", record + one_task("await cell"))
    assert load("records").scenario.title == "one task"


# --- files that are no scenarios ---


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = (1,\n", r"scenarios/bad\.py:1: .*never closed"),
        ("\nimport nosuchmodule\n", r"scenarios/bad\.py:2: ModuleNotFoundError"),
        ("\n\n1 / 0\n", r"scenarios/bad\.py:3: ZeroDivisionError: division by zero"),
        ("raise SystemExit(5)\n", r"scenarios/bad\.py:1: SystemExit: 5"),
        ("x = 1\n", r"scenarios/bad\.py has no SCENARIO"),
        ("SCENARIO = 3\n", r"bad\.py has a int as SCENARIO"),
        (b'x = "\xff"\n', r"scenarios/bad\.py.*(decode|UTF-8|utf-8)"),
        (b"\0", r"scenarios/bad\.py.*null byte"),
    ],
)
def test_a_bad_file_gives_one_line_with_its_place(lab: Lab, text: str | bytes, said: str) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    (lab.path / "scenarios" / "bad.py").write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        load("bad")
    assert "\n" not in str(caught.value)


HEAD = "from vmm.scenario import *\n"
SCENARIO = 'SCENARIO = Scenario(title="t", source="s"{})\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SCENARIO.format(""), "neither a machine nor a world"),
        (
            SCENARIO.format(", machine=MachineConfig()")
            + "@SCENARIO.world\ndef build(world, params): ...\n",
            "no machine, vCPUs or host threads",
        ),
        (
            SCENARIO.format("") + "@SCENARIO.vcpu(0)\ndef f(cpu): ...\n",
            r":3: f must be `async def`",
        ),
        (
            SCENARIO.format("")
            + "@SCENARIO.host('a')\nasync def f(host): ...\n"
            + "@SCENARIO.host('a')\nasync def g(host): ...\n",
            r":5: two programs for host thread a: f and g",
        ),
    ],
)
def test_a_scenario_that_contradicts_itself_is_told(lab: Lab, text: str, said: str) -> None:
    lab.scenario("bad", HEAD + text)
    with pytest.raises(UsageError, match=said):
        load("bad")


def test_unknown_scenarios_come_with_near_names(lab: Lab) -> None:
    with pytest.raises(UsageError, match=r"unknown scenario 'lost_updat'.*lost-update"):
        load("lost_updat")
    with pytest.raises(UsageError, match=r"no such scenario file: lost_update\.py; .*lost-update"):
        load("lost_update.py")


# --- parameters ---

COUNT = Parameter("count", 2, minimum=1, maximum=8)
LOOSE = Parameter("loose", 0)
WORD = Parameter("word", "a", choices=("a", "b"))


@pytest.mark.parametrize(
    ("parameter", "given", "value"),
    [(COUNT, "3", 3), (COUNT, "0x8", 8), (COUNT, 1, 1), (LOOSE, "-5", -5), (WORD, "b", "b")],
)
def test_values_have_the_type_of_the_default(
    parameter: Parameter, given: int | str, value: int | str
) -> None:
    assert parameter.parse(given) == value


@pytest.mark.parametrize(
    ("parameter", "given", "said"),
    [
        (COUNT, "0", "count=0: the value must be a number from 1 to 8"),
        (COUNT, "9", "a number from 1 to 8"),
        (COUNT, "many", "a number$"),
        (WORD, "c", "one of a, b"),
        (Parameter("low", 0, minimum=0), "-1", "from 0 to any"),
    ],
)
def test_bad_values_are_told_what_would_be_good(
    parameter: Parameter, given: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        parameter.parse(given)


def test_defaults_fill_what_is_not_given() -> None:
    scenario = Scenario(title="t", source="s", parameters=(COUNT, WORD))
    assert scenario.values({"count": "5"}) == {"count": 5, "word": "a"}
    with pytest.raises(UsageError, match="unknown parameter 'cuont': did you mean count"):
        scenario.values({"cuont": 1})


# --- experiments ---


async def _nothing(cpu: Any) -> None:
    await cpu.load(0x400000)


def loaded(scenario: Scenario) -> LoadedScenario:
    return LoadedScenario("some", Path("some.py"), "0" * 16, scenario)


def machine_scenario(**more: Any) -> LoadedScenario:
    from vmm.scenario import REGION, page

    def machine(params: Any) -> MachineConfig:
        return MachineConfig(spaces={"A": {REGION: page(2)}}, vcpus=params["vcpus"])

    parameter = Parameter("vcpus", 2, minimum=1, maximum=4)
    scenario = Scenario(title="t", source="s", machine=machine, parameters=(parameter,), **more)
    scenario.vcpu()(_nothing)
    return loaded(scenario)


def test_a_machine_depends_on_parameters_and_its_vcpus_share_a_program() -> None:
    experiment = prepare(machine_scenario(), params={"vcpus": 3})
    world = experiment.world()
    assert [task.name for task in world.tasks if task.name.startswith("v")] == ["v0", "v1", "v2"]
    outcome = drive(Run(world, experiment.pickers(world, "random")(1)))
    assert outcome.ending.value == "quiescent"
    assert experiment.arguments() == ["some", "-p", "vcpus=3"]


def test_goals_of_the_scenario_are_goals_of_its_world(lab: Lab) -> None:
    assert prepare(load("lost_update")).world().goals == ("all added",)


def test_eras_and_bugs_are_checked() -> None:
    some = machine_scenario()
    with pytest.raises(UsageError, match="unknown era"):
        prepare(some, era="2.4")
    with pytest.raises(UsageError, match=r"unknown bug 'stale-gpt': did you mean stale-gpte"):
        prepare(some, bugs=("stale-gpt",))
    assert prepare(some, bugs=("stale_gpte", "stale-gpte")).bugs == ("stale-gpte",)


def test_a_bug_applies_to_its_eras_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from vmm.bugs import stale_gpte

    monkeypatch.setattr(stale_gpte, "SPEC", replace(stale_gpte.SPEC, eras=("3.6",)))
    with pytest.raises(UsageError, match=r"does not apply to era 2\.6\.25: choose --era 3\.6"):
        prepare(machine_scenario(), bugs=("stale-gpte",))


def test_a_world_built_by_hand_has_no_bugs_and_no_era(lab: Lab) -> None:
    some = load("lost_update")
    for choice in ({"bugs": ("stale-gpte",)}, {"era": "2.6.25"}):
        with pytest.raises(UsageError, match="builds its world by hand"):
            prepare(some, **choice)
    assert prepare(some).era is None


def test_a_world_without_tasks_is_refused(lab: Lab) -> None:
    lab.scenario("empty", one_task("await cell").replace("world.task", "(lambda *_: 0)"))
    with pytest.raises(UsageError, match=r"scenarios/empty\.py: the world has no task"):
        prepare(load("empty")).world()


OWN_PICKER = """
@SCENARIO.picker
def backwards(world, params):
    class Backwards:
        def pick(self, enabled, pending, last):
            return enabled[-1]
        def branch(self, count):
            return 0
    return Backwards()
"""


def test_a_picker_of_the_scenario_is_its_default_strategy(lab: Lab) -> None:
    lab.scenario("own", LOST_UPDATE + OWN_PICKER)
    said = lab.vmm("run", "own", "--json")
    assert (said.code, said.json["strategy"]) == (0, "recorded")
    assert lab.vmm("run", "own", "--strategy", "random", "--json").json["strategy"] == "random"


def test_one_file_is_one_module(lab: Lab) -> None:
    """Loaded twice, the classes of a scenario are the same: captured states name them."""
    first, again = load("lost_update"), load("lost_update")
    assert first.scenario is again.scenario
    path = lab.path / "scenarios" / "lost_update.py"
    path.write_text(path.read_text() + "\n# edited\n")
    assert load("lost_update").scenario is not first.scenario


def test_a_setup_of_nobody_is_refused() -> None:
    with pytest.raises(UsageError, match="sets up nobody"):
        Scenario(title="one", source="a test").setup()
