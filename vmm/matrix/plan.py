"""What the matrix consists of: each bug with the scenario that shows it best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vmm.bugs import Bug
from vmm.discovery import discover, public_name, unknown
from vmm.errors import UsageError
from vmm.scenario.loading import LoadedScenario, files, load, load_file


@dataclass(frozen=True, order=True)
class Pair:
    """A bug and its scenario, by name."""

    bug: str
    scenario: str


def plan(bugs: Sequence[str] = ()) -> list[Pair]:
    """Every bug, or the named ones, with its scenario. Errors: a bug that is unknown or unshown."""
    known = discover("vmm.bugs")
    chosen = list(dict.fromkeys(bug.replace("_", "-") for bug in bugs)) or list(known)
    for bug in chosen:
        if bug not in known:
            raise unknown("bug", bug, known)
    shown = [load_file(path) for path in files()]
    return [Pair(bug, scenario_of(bug, known[bug].SPEC, shown).name) for bug in sorted(chosen)]


def scenario_of(name: str, bug: Bug, scenarios: Iterable[LoadedScenario]) -> LoadedScenario:
    """The scenario that the bug names, else that of its own name, else the first that shows it.

    Errors: there is none.
    """
    if bug.scenario:
        return load(bug.scenario)
    showing = [loaded for loaded in scenarios if name in loaded.scenario.bugs]
    own = [loaded for loaded in showing if public_name(loaded.path.stem) == name]
    if not showing:
        raise UsageError(
            f"no scenario shows the bug {name}: name one in its file, SPEC = Bug(scenario=...), "
            f"or name it in a scenario, Scenario(bugs=({name!r},))"
        )
    return (own or showing)[0]
