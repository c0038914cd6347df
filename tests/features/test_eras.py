"""What fires in an era is what its kernels had, and nothing else."""

from __future__ import annotations

import pytest

from vmm.errors import UsageError
from vmm.machine import MachineConfig, features_of
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import load
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
]


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


def test_2_6_20_runs_one_vcpu() -> None:
    with pytest.raises(UsageError, match=r"era 2\.6\.20 has guests of 1 vCPU, not 2: -p smp=1"):
        prepare(load("stale_gpte"), era="2.6.20").world()
    assert features_of(MachineConfig(era="2.6.20", vcpus=1)) == ("kvm-lock",)


@pytest.mark.parametrize("scenario", ["stale_gpte", "walk_plain_store"])
def test_the_kvm_lock_alone_breaks_nothing(scenario: str) -> None:
    result = search(prepare(load(scenario), params={"features": "kvm-lock"}).world())
    assert (result.verdict, result.complete) == (Verdict.CLEAN, True)
