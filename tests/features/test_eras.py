"""What fires in an era is what its kernels had, and nothing else."""

from __future__ import annotations

import pytest

from tests import catalogue
from vmm.eras import ERAS
from vmm.errors import UsageError
from vmm.features import features
from vmm.machine import MachineConfig, features_of
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import LoadedScenario, load
from vmm.search.exhaustive import search
from vmm.search.result import Verdict

FIRES = [
    ("2.6.20", "remote_flush_missing", "audit/write-protection"),
    ("2.6.20", "page_reclaim", "isolation/page-given-back"),
    ("2.6.23", "stale_gpte", "audit/spte-agrees"),
    ("2.6.23", "walk_plain_store", "update/lost"),
]
CLEAN = [
    ("2.6.20", "emulated_write_order"),
    ("2.6.23", "emulated_write_order"),
    ("2.6.23", "page_reclaim"),
    ("2.6.23", "guest_shootdown"),
    ("2.6.28", "stale_after_invlpg"),
]
LATER = ("2.6.28", "3.6", "5.15", "2026")
MOST_STATES = 300_000


@pytest.mark.parametrize(("era", "scenario", "code"), FIRES)
def test_fires(era: str, scenario: str, code: str) -> None:
    loaded = load(scenario)
    result = search(prepare(loaded, params={**loaded.scenario.small, "smp": 1}, era=era).world())
    assert result.verdict is Verdict.VIOLATED
    assert result.findings[0].code == code


@pytest.mark.parametrize(("era", "scenario"), CLEAN)
def test_is_clean(era: str, scenario: str) -> None:
    loaded = load(scenario)
    result = search(prepare(loaded, params={**loaded.scenario.small, "smp": 1}, era=era).world())
    assert (result.verdict, result.complete) == (Verdict.CLEAN, True)


@pytest.mark.slow
@pytest.mark.parametrize("era", LATER)
@pytest.mark.parametrize(
    "loaded",
    [loaded for loaded in catalogue.searchable() if loaded.scenario.machine is not None],
    ids=catalogue.pair_id,
)
def test_no_scenario_fires_in_a_later_era(loaded: LoadedScenario, era: str) -> None:
    """Whatever an era's features are, they go together."""
    made = prepare(loaded, params=loaded.scenario.small, era=era)
    result = search(made.world(), max_states=MOST_STATES, reduce=True)
    assert not result.findings
    assert not result.deadlocks


def test_each_era_has_what_its_features_say() -> None:
    for era in ERAS:
        made = features_of(MachineConfig(era=era, smp=True))
        bundled = {name for name, feature in features().items() if era in feature.eras}
        assert bundled <= set(made)
        assert all(set(features()[name].needs) <= set(made) for name in made)


def test_2_6_20_runs_one_vcpu() -> None:
    with pytest.raises(UsageError, match=r"era 2\.6\.20 has guests of 1 vCPU, not 2: -p smp=1"):
        prepare(load("stale_gpte"), era="2.6.20").world()
    assert features_of(MachineConfig(era="2.6.20", vcpus=1)) == ("kvm-lock",)


@pytest.mark.parametrize("scenario", ["stale_gpte", "walk_plain_store"])
def test_the_kvm_lock_alone_breaks_nothing(scenario: str) -> None:
    result = search(prepare(load(scenario), params={"features": "kvm-lock"}).world())
    assert (result.verdict, result.complete) == (Verdict.CLEAN, True)
