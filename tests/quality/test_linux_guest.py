"""A recorded guest: in its own order it sees what it saw; in any order the shadow follows it."""

from __future__ import annotations

import pytest

from tests import catalogue
from tests.quality.shadow_walk import assert_shadow_follows, emulating
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.trace import Ending, Outcome
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.scenario.experiment import Experiment, prepare
from vmm.scenario.loading import load
from vmm.strategies.random import RandomPicker
from vmm.vcpu.vcpu import Vm

EVENTS = 400
FULL_ERAS = ("2.6.25", "2.6.28", "5.15")
ALL_EVENTS, TOUCHES, FAULTS, CHECKPOINTS = 7_176, 2_168, 421, 73


def experiment(**params: int) -> Experiment:
    return prepare(load(catalogue.RECORDED), params=params)


def replayed(made: Experiment) -> tuple[Vm, Run, Outcome]:
    """A run in the recorded order."""
    world = made.world()
    run = Run(world, made.pickers(world, made.default_strategy)(0), incremental=True)
    outcome = drive(run)
    return _vm(world), run, outcome


def _vm(world: World) -> Vm:
    assert isinstance(world.model, Vm)
    return world.model


def test_first_events_come_out_as_recorded() -> None:
    vm, run, outcome = replayed(experiment(events=EVENTS))
    assert not outcome.findings
    assert outcome.ending is Ending.QUIESCENT
    assert outcome.counts["recording: events in order"] == EVENTS
    assert outcome.counts["recording: translations as recorded"] > EVENTS // 2
    assert outcome.counts["recording: faults as recorded"] > 0
    assert outcome.counts["recording: checkpoints held"] > 0
    assert_shadow_follows(vm, run.memory)


@pytest.mark.slow
def test_all_events_come_out_as_recorded() -> None:
    """Every checkpoint, translation and fault; then every mapped page, loaded once."""
    vm, run, outcome = replayed(experiment(events=ALL_EVENTS, sweep=1))
    assert not outcome.findings
    assert all(outcome.goals.values()), outcome.goals
    assert outcome.counts["recording: events in order"] > ALL_EVENTS
    assert outcome.counts["recording: checkpoints held"] == CHECKPOINTS
    assert outcome.counts["recording: translations as recorded"] > TOUCHES
    assert outcome.counts["recording: faults as recorded"] == FAULTS
    assert_shadow_follows(vm, run.memory)


@pytest.mark.slow
@pytest.mark.parametrize("era", FULL_ERAS)
def test_the_full_recording_comes_out_as_recorded(era: str) -> None:
    """Half a million accesses and 200 checkpoints, with every oracle on."""
    made = prepare(load(catalogue.RECORDED), params={"recording": "full"}, era=era)
    vm, run, outcome = replayed(made)
    assert (outcome.ending, outcome.findings) == (Ending.QUIESCENT, ())
    assert outcome.counts["recording: events in order"] == 243_536
    assert outcome.counts["recording: checkpoints held"] == 200
    assert outcome.counts["recording: faults as recorded"] == 12_857
    assert all(outcome.goals.values()), outcome.goals
    assert_shadow_follows(vm, run.memory)


def test_a_recording_has_no_more_events_than_it_has() -> None:
    with pytest.raises(UsageError, match="events=7177: the recording small has 7176 events"):
        experiment(events=ALL_EVENTS + 1).world()


def test_any_order_keeps_the_shadow_right() -> None:
    _run_out_of_order(0, EVENTS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_all_events_keeps_the_shadow_right(seed: int) -> None:
    _run_out_of_order(seed, ALL_EVENTS)


def _run_out_of_order(seed: int, events: int) -> None:
    world = experiment(events=events).world()
    run = Run(world, RandomPicker(seed), incremental=True)
    run.begin()
    try:
        stops = 0
        while (number := run.next()) is not None:
            run.step(number)
            if run.steps % 300 == 0:
                stops += assert_shadow_follows(_vm(world), run.memory, emulating=emulating(run))
        assert run.outcome().ending is Ending.QUIESCENT, run.findings
        assert not run.findings
        assert stops, "the shadow was never looked at on the way"
        assert_shadow_follows(_vm(world), run.memory)
        assert all(run.goals.values()), run.goals
    finally:
        run.close()


# --- with a bug ---

ENOUGH_EVENTS = 3_100
"""By then the kernel has made a table of a page that its other CPU holds in its TLB, writable."""


def _with(bug: str, strategy: str, events: int, seed: int = 0) -> Outcome:
    loaded = load(catalogue.RECORDED)
    made = prepare(loaded, params={"events": events}, bugs=(bug,))
    world = made.world()
    return drive(Run(world, made.pickers(world, strategy)(seed), incremental=True))


@pytest.mark.slow
def test_missing_remote_flush_shows_in_the_recorded_order() -> None:
    (found, *_) = _with("remote-flush-missing", "recorded", ENOUGH_EVENTS).findings
    assert found.code == "audit/write-protection"


@pytest.mark.slow
def test_missing_remote_flush_shows_in_some_random_orders() -> None:
    outcomes = [_with("remote-flush-missing", "random", ALL_EVENTS, seed) for seed in range(4)]
    found = [outcome.findings[0].code for outcome in outcomes if outcome.findings]
    assert found, "a full random run takes 260,000 steps; two of the first three found it"
    assert dict.fromkeys(found) == {"audit/write-protection": None}


@pytest.mark.slow
@pytest.mark.parametrize("bug", ["stale-gpte", "emulated-write-order"])
def test_other_bugs_do_not_show_in_this_guest(bug: str) -> None:
    """Its CPUs never fault in a table that the other one is writing. If this fails, rejoice."""
    assert not _with(bug, "recorded", ALL_EVENTS).findings
    assert not _with(bug, "random", ALL_EVENTS).findings
