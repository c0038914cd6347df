"""The pytest plugin, in test runs of its own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.lab import LOST_UPDATE, Lab


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    """A directory with the scenario lost-update in which test files are run."""
    folder = pytester.mkdir("scenarios")
    (folder / "lost_update.py").write_text(LOST_UPDATE)
    plugins = "--disable-plugin-autoload -p pytest_trio.plugin -p vmm.pytest_plugin"
    pytester.makeini(f"[pytest]\nfilterwarnings = error\naddopts = --strict-markers {plugins}\n")
    return pytester


def run(suite: pytest.Pytester, text: str, *words: str) -> pytest.RunResult:
    suite.makepyfile("import pytest\n" + text)
    return suite.runpytest_inprocess("-p", "no:cacheprovider", *words)


EMPTY = '@pytest.mark.vmm("lost_update"{})\ndef test_it(): pass\n'


def test_a_marked_test_fails_with_the_table_and_the_command(suite: pytest.Pytester) -> None:
    result = run(suite, EMPTY.format(", seeds=5"))
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "counter/lost-update under seed" in text
    assert "read   counter = 0" in text
    assert "reproduce: vmm run lost-update --seed" in text


def test_the_command_of_a_failure_shows_it_again(suite: pytest.Pytester) -> None:
    text = run(suite, EMPTY.format(", params={'tasks': 3}, host='asyncio'")).stdout.str()
    found = re.search(r"reproduce: vmm (run .*)", text)
    assert found is not None
    said = Lab(suite.path).vmm(*shlex.split(found[1]))
    assert said.code == 1
    assert "asyncio" in said.out


def test_a_clean_scenario_passes_and_its_body_runs(suite: pytest.Pytester) -> None:
    clean = EMPTY.format(", params={'locked': 1}, seeds=20")
    run(suite, clean).assert_outcomes(passed=1)
    run(suite, clean.replace("pass", "assert 0")).assert_outcomes(failed=1)


@pytest.mark.parametrize("host", ["direct", "asyncio", "trio"])
def test_every_host_serves(suite: pytest.Pytester, host: str) -> None:
    run(suite, EMPTY.format(f", params={{'locked': 1}}, seeds=3, host={host!r}")).assert_outcomes(
        passed=1
    )


JUDGE = """
@pytest.mark.vmm("lost_update", seeds=30)
def test_the_bug_is_found(vmm_outcomes):
    assert vmm_outcomes.codes == ("counter/lost-update",)
    assert len(vmm_outcomes.by_seed) == 30
    assert 0 < len(vmm_outcomes.failures) < 30
    assert vmm_outcomes.goals == {"all added": True}

@pytest.mark.vmm("lost_update", seeds=30, strategy="round-robin")
def test_a_wrong_judgement(vmm_outcomes):
    assert not vmm_outcomes.failures
"""


def test_a_test_may_judge_the_outcomes_itself(suite: pytest.Pytester) -> None:
    result = run(suite, JUDGE)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*reproduce: vmm run lost-update --seed * --strategy round-robin"])


def test_options_choose_seeds(suite: pytest.Pytester) -> None:
    count = """
@pytest.mark.vmm("lost_update", seeds=30)
def test_it(vmm_outcomes):
    assert list(vmm_outcomes.by_seed) == {}
"""
    run(suite, count.format([7]), "--vmm-seed", "7").assert_outcomes(passed=1)
    run(suite, count.format([1, 2]), "--vmm-seeds", "2").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('"lost_updat"', "unknown scenario 'lost_updat': did you mean lost-update?"),
        ('"lost_update", bugs=("x",)', "builds its world by hand"),
        ('"lost_update", params={"lock": 1}', "unknown parameter 'lock'"),
        ('"lost_update", host="gevent"', "unknown host 'gevent'"),
        ('"lost_update", strategy="randm"', "unknown strategy 'randm'"),
        ('"lost_update", sedes=3', "unexpected keyword argument 'sedes'"),
        ("", "missing a required argument: 'scenario'"),
    ],
)
def test_a_bad_marker_is_told_in_one_line(
    suite: pytest.Pytester, arguments: str, said: str
) -> None:
    result = run(suite, f"@pytest.mark.vmm({arguments})\ndef test_it(): pass\n")
    result.assert_outcomes(failed=1)
    (line,) = [line for line in result.outlines if line.startswith("@pytest.mark.vmm:")]
    assert said in line


def test_outcomes_need_the_marker(suite: pytest.Pytester) -> None:
    result = run(suite, "def test_it(vmm_outcomes): pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*vmm_outcomes needs the marker*"])


def test_a_scenario_beside_the_test_file_is_found_first(suite: pytest.Pytester) -> None:
    tests = suite.mkdir("tests")
    text = LOST_UPDATE.replace('"locked", 0', '"locked", 1')
    (tests / "lost_update.py").write_text(text)
    (tests / "test_beside.py").write_text("import pytest\n" + EMPTY.format(""))
    suite.runpytest_inprocess(str(tests)).assert_outcomes(passed=1)


def test_an_error_of_the_scenario_is_told(suite: pytest.Pytester) -> None:
    Path("scenarios/lost_update.py").write_text(
        LOST_UPDATE.replace("value = await counter", "value = await counter + None")
    )
    result = run(suite, EMPTY.format(""))
    result.assert_outcomes(failed=1)
    assert "scenarios/lost_update.py:28 in adder: TypeError" in result.stdout.str()


ASYNC = """
@pytest.mark.trio
async def test_it(vmm_run):
    outcome = await vmm_run("lost_update"{})
    assert outcome.ending.value == "quiescent"
"""


def test_an_async_test_runs_a_scenario_on_its_loop(suite: pytest.Pytester) -> None:
    run(suite, ASYNC.format(", params={'locked': 1}")).assert_outcomes(passed=1)
    result = run(suite, ASYNC.format(", seed=1"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*reproduce: vmm run lost-update --seed 1"])


def test_the_plugin_documents_itself(suite: pytest.Pytester) -> None:
    text = suite.runpytest_inprocess("--markers").stdout.str()
    assert "@pytest.mark.vmm(scenario, *, seeds=100" in text
    assert "--vmm-seed=N" in suite.runpytest_inprocess("--help").stdout.str()


def test_the_plugin_is_loaded_by_itself_and_imports_nothing_heavy(
    pytester: pytest.Pytester,
) -> None:
    text = """
import sys

def test_it(request):
    assert request.config.getoption("--vmm-seeds") is None
    assert [name for name in ("vmm.engine", "numpy", "msgspec") if name in sys.modules] == []
"""
    pytester.makepyfile(text)
    words = ("-W", "error", "-p", "no:trio", "-p", "no:anyio", "-p", "no:hypothesispytest")
    pytester.runpytest_subprocess(*words).assert_outcomes(passed=1)
