"""Endless fault loops of a guest, as a single run sees them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests import catalogue
from tests.tiny import tiny
from tests.vcpu.test_endless_faults import writes_its_own_table
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.ops import Op
from vmm.hw.layout import REGION, page
from vmm.scenario.experiment import prepare
from vmm.strategies.random import RandomPicker

CODE = "guest/fault-loop"
ALONE = 400
"""Steps that a vCPU is given while nobody else gets any: a few faults."""


@pytest.mark.parametrize("seed", range(3))
def test_a_loop_is_found_within_one_run(seed: int) -> None:
    world = tiny({"A": {int(REGION): page(2)}}, writes_its_own_table)
    outcome = drive(Run(world, RandomPicker(seed)))
    assert [finding.code for finding in outcome.findings] == [CODE]


@pytest.mark.parametrize("seed", range(3))
def test_another_vcpu_that_goes_on_excuses_nothing_for_ever(seed: int) -> None:
    bug = "pinned-root-unprotected"
    world = prepare(catalogue.main_scenario(bug), bugs=[bug]).world()
    outcome = drive(Run(world, RandomPicker(seed)))
    assert [finding.code for finding in outcome.findings] == [CODE]


class HostStops:
    """The host makes some steps, then vCPU 0 alone makes many; the rest ends in any order."""

    every_step = True

    def __init__(self, host: int, steps: int) -> None:
        self._host, self._steps, self._alone = host, steps, ALONE

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        del pending, last
        if self._steps and self._host in enabled:
            self._steps -= 1
            return self._host
        if self._alone and 0 in enabled:
            self._alone -= 1
            return 0
        return enabled[-1]

    def branch(self, count: int) -> int:
        return count - 1


def test_faults_may_come_again_while_an_invalidation_is_under_way() -> None:
    """KVM lets the guest run into the same fault until the notifier is done."""
    world = prepare(catalogue.main_scenario("notifier-retry")).world()
    host = next(task.index for task in world.tasks if task.name == "unmap")
    faults = []
    for steps in range(30):
        outcome = drive(Run(world, HostStops(host, steps)))
        assert not outcome.findings
        faults.append(outcome.counts["exits: page fault"])
    assert max(faults) > 4
