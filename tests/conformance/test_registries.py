"""What every extension must keep to, over all that are registered."""

from __future__ import annotations

import pytest

from tests import catalogue
from vmm.bugs import Bug
from vmm.components import COMPONENTS, own_components
from vmm.discovery import discover
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.eras import ERAS
from vmm.features import Feature, chosen, features
from vmm.monitors import Oracle
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import LoadedScenario
from vmm.strategies import Strategy

MONITOR_NAMES = tuple(discover("vmm.monitors"))


@pytest.mark.parametrize("name", catalogue.bugs())
def test_bug_is_complete(name: str) -> None:
    module = discover("vmm.bugs")[name]
    spec = module.SPEC
    assert isinstance(spec, Bug)
    assert spec.title
    assert spec.source
    assert bool(spec.fix) == bool(spec.year)
    assert spec.caught_by
    assert all(need in features() for need in spec.needs)
    assert all(era in ERAS for era in spec.eras)
    assert module.__doc__
    assert "vCPU 0" in module.__doc__, "a bug shows its schedule in two columns"


@pytest.mark.parametrize("name", catalogue.bugs())
def test_bug_overrides_components_by_name(name: str) -> None:
    module = discover("vmm.bugs")[name]
    own = list(own_components(module))
    assert own
    for component, cls in own:
        assert issubclass(cls, COMPONENTS[component])


@pytest.mark.parametrize("name", catalogue.bugs())
def test_some_scenario_shows_the_bug(name: str) -> None:
    assert (catalogue.main_scenario(name).name, name) in [
        (loaded.name, bug) for loaded, bug in catalogue.shows()
    ]


@pytest.mark.parametrize("name", list(features()))
def test_feature_is_complete(name: str) -> None:
    module = discover("vmm.features")[name]
    spec = module.SPEC
    assert isinstance(spec, Feature)
    assert spec.title
    assert spec.source
    assert "vCPU 0" in (module.__doc__ or ""), "a feature shows its protocol in two columns"
    assert all(other in features() for other in (*spec.needs, *spec.excludes))
    assert own_components(module)
    for component, cls in own_components(module):
        assert issubclass(cls, COMPONENTS[component])


@pytest.mark.parametrize("era", list(ERAS))
def test_era_is_complete(era: str) -> None:
    spec = ERAS[era]
    assert spec.title
    assert spec.source
    assert all(bug in catalogue.bugs() for bug in spec.bugs)
    chosen(era, ())


@pytest.mark.parametrize("name", MONITOR_NAMES)
def test_monitor_is_complete(name: str) -> None:
    spec = discover("vmm.monitors")[name].SPEC
    assert isinstance(spec, Oracle)
    assert spec.title
    assert spec.source
    assert spec.rule


def test_monitor_names_are_distinct() -> None:
    world = prepare(catalogue.main_scenario("stale-gpte")).world()
    names = [monitor.name for monitor in world.monitors]
    assert len(dict.fromkeys(names)) == len(names) <= len(MONITOR_NAMES)


@pytest.mark.parametrize("name", list(discover("vmm.strategies")))
def test_strategy_is_deterministic(name: str) -> None:
    spec = discover("vmm.strategies")[name].SPEC
    assert isinstance(spec, Strategy)
    assert spec.title
    assert spec.source
    if spec.make is None:
        return
    world = prepare(catalogue.main_scenario("stale-gpte")).world()
    first, again = (drive(Run(world, spec.make(7))).digest for _ in range(2))
    assert first == again


@pytest.mark.parametrize("loaded", catalogue.scenarios(), ids=catalogue.pair_id)
def test_scenario_is_complete(loaded: LoadedScenario) -> None:
    scenario = loaded.scenario
    assert scenario.title
    assert scenario.source
    assert scenario.goals, "without goals, green may be empty"
    assert all(bug in catalogue.bugs() for bug in scenario.bugs)
