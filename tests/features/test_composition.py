"""How features are chosen and put together: by need and history, whatever their files are named."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

import vmm.features
from vmm.components import COMPONENTS, compose
from vmm.discovery import discover
from vmm.eras import ERAS
from vmm.errors import UsageError
from vmm.features import chosen, feature_overrides, no_cache
from vmm.machine import MachineConfig, features_of
from vmm.mmu import zap
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import load

FEATURE = '''
"""A feature of this test."""

from vmm.features import Feature
from vmm.mmu import zap


class Zap(zap.Zap):
    def said(self):
        return ("{name}", *getattr(super(), "said", tuple)())


SPEC = Feature("{name}", "a test", since="{since}", needs={needs}, excludes={excludes})
'''


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four features whose names sort against their needs and their history."""
    for name, since, needs, excludes in (
        ("t_a_last", "2.6.20", ("t-m-middle",), ()),
        ("t_m_middle", "2.6.26", ("t-z-first",), ()),
        ("t_z_first", "5.15", (), ()),
        ("t_b_old", "2.6.9", (), ("t-c-older",)),
        ("t_c_older", "2.6.10", (), ()),
    ):
        text = FEATURE.format(name=name, since=since, needs=needs, excludes=excludes)
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(vmm.features, "__path__", [*vmm.features.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.mark.usefixtures("files")
def test_needs_come_first_then_history() -> None:
    assert chosen("2.6.25", ("t-a-last", "t-b-old")) == (
        "t-b-old", "t-z-first", "t-m-middle", "t-a-last",
    )  # fmt: skip


@pytest.mark.usefixtures("files")
def test_the_order_on_the_command_line_does_not_matter() -> None:
    assert chosen("2.6.25", ("t-c-older", "t-a-last")) == chosen(
        "2.6.25", ("t-a-last", "t-z-first", "t-c-older")
    )


@pytest.mark.usefixtures("files")
def test_a_later_feature_stands_in_front_of_an_earlier_one_and_a_bug_in_front_of_both() -> None:
    class Broken(zap.Zap):
        """A bug."""

    overrides = feature_overrides(chosen("2.6.25", ("t-a-last",)))
    made = compose({"Zap": [Broken]}, overrides)["Zap"]
    assert made.__mro__[1] is Broken
    assert made.said(object.__new__(made)) == ("t_a_last", "t_m_middle", "t_z_first")
    assert compose()["Zap"] is COMPONENTS["Zap"]


@pytest.mark.usefixtures("files")
def test_features_may_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="features t-b-old and t-c-older exclude each other"):
        chosen("2.6.25", ("t-b-old", "t-c-older"))


@pytest.mark.usefixtures("files")
def test_an_era_brings_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    module = discover("vmm.features")["t-b-old"]
    monkeypatch.setattr(module, "SPEC", replace(module.SPEC, eras=("2.6.25",)))
    assert "t-b-old" in features_of(MachineConfig())
    with pytest.raises(UsageError, match="exclude"):
        features_of(MachineConfig(features=("t-c-older",)))


def test_unknown_features_are_told_of() -> None:
    with pytest.raises(UsageError, match=r"unknown feature 'no-cash': did you mean no-cache"):
        features_of(MachineConfig(features=("no-cash",)))


def test_a_scenario_is_given_features_as_a_parameter() -> None:
    made = prepare(load("stale_gpte"), params={"features": "no_cache, host-paging"})
    assert made.machine is not None
    assert made.machine.features == ("no-cache", "host-paging")
    assert made.arguments() == ["stale-gpte", "-p", "features=no_cache, host-paging"]
    model = made.world().model
    assert isinstance(model.mmu.zap, no_cache.Zap)  # type: ignore[attr-defined]
    assert prepare(load("stale_gpte")).params == {"mode": "4-level"}


def test_a_bug_of_a_feature_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from vmm.bugs import stale_gpte

    monkeypatch.setattr(stale_gpte, "SPEC", replace(stale_gpte.SPEC, needs=("host-paging",)))
    with pytest.raises(UsageError, match="has not: add -p features=host-paging"):
        prepare(load("stale_gpte"), bugs=("stale-gpte",))
    prepare(load("page_reclaim"), bugs=("stale-gpte",))


def test_an_era_of_one_vcpu_has_more_on_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm.machine.ERAS", {"2.6.25": replace(ERAS["2.6.25"], vcpus_max=1)})
    with pytest.raises(UsageError, match=r"guests of 1 vCPU, not 2: -p smp=1"):
        features_of(MachineConfig())
    assert features_of(MachineConfig(vcpus=1)) == ()
    assert features_of(MachineConfig(smp=True)) == ()


def test_an_era_brings_its_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "vmm.scenario.wiring.ERAS", {"2.6.25": replace(ERAS["2.6.25"], bugs=("stale-gpte",))}
    )
    model = prepare(load("stale_gpte")).world().model
    from vmm.bugs import stale_gpte

    assert isinstance(model.mmu.fault, stale_gpte.PageFault)  # type: ignore[attr-defined]
