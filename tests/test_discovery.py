"""Extensions are found by their file names, wherever their package's path leads."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import vmm.monitors
import vmm.strategies
from tests.lab import Lab
from vmm.discovery import discover, public_name, unknown
from vmm.errors import UsageError

Drop = Callable[[str, str], None]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drop]:
    """Write modules of a package named ``extras``."""
    folder = tmp_path / "extras"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name, text: _write(folder / f"{name}.py", text)
    for name in [name for name in sys.modules if name.partition(".")[0] == "extras"]:
        del sys.modules[name]


def _write(file: Path, text: str) -> None:
    file.write_text(text)
    importlib.invalidate_caches()


def test_modules_with_a_spec_are_found_sorted_under_their_public_names(package: Drop) -> None:
    package("late_one", "SPEC = 2")
    package("early", "SPEC = 1")
    package("_helper", "SPEC = 3")
    package("no_spec", "")
    found = discover("extras")
    assert list(found) == ["early", "late-one"]
    assert [module.SPEC for module in found.values()] == [1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [("1 +", r"broken\.py:1"), ("import nosuch", "No module named"), ("1 / 0", "ZeroDivision")],
)
def test_a_broken_module_gives_one_line_that_names_it(package: Drop, text: str, said: str) -> None:
    package("broken", text)
    with pytest.raises(UsageError, match=said) as caught:
        discover("extras")
    assert "\n" not in str(caught.value)
    assert "broken" in str(caught.value)


def test_unknown_names_come_with_near_ones() -> None:
    known = ["stale-gpte", "januscape"]
    assert "did you mean stale-gpte?" in str(unknown("bug", "stale-pte", known))
    assert "known: januscape, stale-gpte" in str(unknown("bug", "xyz", known))
    assert "there are none" in str(unknown("bug", "xyz", []))


def test_public_names_have_hyphens() -> None:
    assert public_name("stale_gpte") == "stale-gpte"


# --- one file is an extension ---

LAST_FIRST = '''
"""Always the last of the enabled tasks."""
from vmm.strategies import Strategy


class LastFirst:
    def pick(self, enabled, pending, last):
        return enabled[-1]

    def branch(self, count):
        return count - 1


SPEC = Strategy(title="the last task first", source="a test", make=lambda seed: LastFirst())
'''

NEVER_TWO = '''
"""No counter ever holds two."""
from vmm.engine.events import Goal
from vmm.engine.monitor import Monitor
from vmm.monitors import Oracle


class NeverTwo(Monitor):
    name = "counter/two"
    events = (Goal,)

    def __init__(self, counter):
        self.counter = counter

    def on_event(self, state, event, step, view):
        found = SPEC.finding("counter/two", "the counter holds 2", "counter")
        return state, (found,) if view[self.counter] == 2 else ()


def _build(world, vm):
    return next((NeverTwo(cell) for cell in world.cells if cell.name == "counter"), None)


SPEC = Oracle(title="never two", source="a test", rule="two is too many", build=_build)
'''


Beside = Callable[[ModuleType, str, str], None]


@pytest.fixture
def beside(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Beside]:
    """Drops a file into a directory that a package of ours then spans as well."""
    dropped: list[tuple[ModuleType, str]] = []

    def drop(package: ModuleType, name: str, text: str) -> None:
        folder = lab.path / "more"
        folder.mkdir()
        _write(folder / f"{name}.py", text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        dropped.append((package, name))

    yield drop
    for package, name in dropped:
        sys.modules.pop(f"{package.__name__}.{name}", None)
        vars(package).pop(name, None)


def test_a_strategy_is_one_file(lab: Lab, beside: Beside) -> None:
    beside(vmm.strategies, "last_first", LAST_FIRST)
    listed = lab.vmm("list", "--json").json["strategies"]
    entry = {"name": "last-first", "title": "the last task first", "source": "a test"}
    assert entry in listed
    run = lab.vmm("run", "lost_update", "--strategy", "last-first", "--json")
    assert run.code == 0
    assert run.json["ending"] == "quiescent"
    sampled = lab.vmm("explore", "lost_update", "--search", "last_first", "--executions", 3)
    assert sampled.code == 4


def test_a_monitor_is_one_file(lab: Lab, beside: Beside) -> None:
    beside(vmm.monitors, "never_two", NEVER_TWO)
    said = lab.vmm("explore", "lost_update", "-p", "locked=1", "--json")
    assert said.code == 1
    assert said.json["findings"][0]["code"] == "counter/two"
