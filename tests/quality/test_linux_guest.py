"""A recorded guest: in its own order it sees what it saw; in any order the shadow follows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import catalogue
from vmm.bits import NX, P, U, W, combine, frame_of
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.trace import Ending, Outcome
from vmm.engine.world import World
from vmm.mmu.api import NO_ROOT
from vmm.scenario.experiment import Experiment, prepare
from vmm.strategies.random import RandomPicker
from vmm.units import ENTRY_BYTES
from vmm.vcpu.vcpu import Vm
from vmm.workload.tables import GuestTables

EVENTS = 400
ALL_EVENTS, TOUCHES, FAULTS, CHECKPOINTS = 7_176, 2_168, 421, 73


def experiment(**params: int) -> Experiment:
    return prepare(catalogue.main_scenario(catalogue.RECORDED), params=params)


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


@pytest.mark.parametrize("seed", range(3))
def test_any_order_keeps_the_shadow_right(seed: int) -> None:
    _run_out_of_order(seed, EVENTS)


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
            if run.steps % 2_000 == 0:
                stops += assert_shadow_follows(_vm(world), run.memory, emulating=_emulating(run))
        assert run.outcome().ending is Ending.QUIESCENT, run.findings
        assert not run.findings
        assert stops, "the shadow was never looked at on the way"
        assert_shadow_follows(_vm(world), run.memory)
        assert all(run.goals.values()), run.goals
    finally:
        run.close()


def _emulating(run: Run) -> dict[int, None]:
    """Gpas that an emulated store reached, the shadow not yet."""
    assert run.oracles is not None
    for monitor, state in zip(run.oracles.monitors, run.states, strict=True):
        if monitor.name == "audit/spte-agrees":
            return dict.fromkeys(gpa for _, gpa in state)
    raise AssertionError("the audit of sptes is gone")


def assert_shadow_follows(
    vm: Vm, memory: list[Any], *, emulating: dict[int, None] | None = None
) -> int:
    """Each translation that a vCPU's shadow holds is what an independent walk of the guest says.

    Looked at only while mmu_lock is free; gives the number of translations.
    """
    if memory[vm.mmu.lock.index]:
        return 0
    guest = GuestTables()
    for gpa, word in vm.layout.content.items():
        guest.store(gpa, ENTRY_BYTES, word)
    for array in vm.mmu.memory.arrays:
        for gpa, cell in array.cells.items():
            guest.store(gpa, ENTRY_BYTES, memory[cell.index])
    seen = 0
    for vcpu in vm.vcpus:
        root = memory[vcpu.root.index]
        if root == NO_ROOT:
            continue
        cr3 = memory[vcpu.mmu.cache.pages[root].header.index].gfn << 12
        for gva, pfn, rights in _translations(vm, memory, root, 4, 0, W | U):
            walked = guest.walk(cr3, gva)
            if emulating and (walked is None or any(gpa in emulating for gpa, _ in walked.path)):
                continue
            assert walked is not None, f"{gva:#x} is mapped in the shadow only"
            assert pfn == walked.gpa >> 12, f"{gva:#x}: frame {pfn:#x}, not {walked.gpa >> 12:#x}"
            granted = (rights & W, rights & U, not rights & NX)
            allowed = (walked.rights.write, walked.rights.user, not walked.rights.nx)
            assert all(a or not g for g, a in zip(granted, allowed, strict=True)), hex(gva)
            seen += 1
    return seen


def _translations(
    vm: Vm, memory: list[Any], page: int, level: int, base: int, rights: int
) -> Iterator[tuple[int, int, int]]:
    """(gva, pfn, rights) of every leaf below a shadow page."""
    shadow = vm.mmu.cache.pages[page]
    for index in memory[shadow.present.index]:
        spte = memory[shadow[index].index]
        gva = base | index << 12 + 9 * (level - 1)
        if level == 4 and index >= 256:
            gva |= -(1 << 48) & ((1 << 64) - 1)
        below = combine(rights, spte)
        assert spte & P
        if level == 1:
            yield gva, frame_of(spte), below
        else:
            child = vm.mmu.cache.page_at(frame_of(spte)).number
            yield from _translations(vm, memory, child, level - 1, gva, below)
