"""Each feature with one vCPU more than its scenario has: it loads a page that the others use.

A protocol between two parties may fail with a third: one more that is flushed, kicked, waited for,
or that shares a shadow page. Which of these worlds can be searched whole is what
``python -m tests.quality.test_three_vcpus [STATES]`` prints.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from time import process_time

import pytest

from tests import catalogue
from vmm.engine.world import World
from vmm.machine import build_world
from vmm.programs import Programs
from vmm.scenario.loading import LoadedScenario
from vmm.scenario.wiring import monitor_factories, programs_of
from vmm.search.exhaustive import search
from vmm.search.result import Verdict
from vmm.units import Gva
from vmm.vcpu.guest import Guest

UNPAGED = 0x2000
"""Where a guest without paging loads from."""
STATES, STATES_AT_MOST = 800, 5_000_000


@cache
def cases() -> tuple[LoadedScenario, ...]:
    """The scenarios of features, on machines with fewer than three vCPUs."""
    found = []
    for loaded in catalogue.searchable():
        machine = catalogue.small(loaded).machine
        if machine is not None and machine.features and machine.vcpus < 3 and machine.spaces:
            found.append(loaded)
    return tuple(found)


def with_another(loaded: LoadedScenario) -> World:
    """The small world of a scenario with one more vCPU, in the address space of the first one."""
    experiment = catalogue.small(loaded)
    machine = experiment.machine
    assert machine is not None
    first = next(iter(machine.spaces))
    starts = machine.starts or (first,) * machine.vcpus
    used = Gva(min(machine.spaces[starts[0]], default=UNPAGED))

    async def loads(cpu: Guest) -> None:
        await cpu.load(used)
        if "teardown" in machine.features:
            await cpu.close()

    programs = programs_of(loaded.scenario, machine.vcpus)
    more: Programs = replace(programs, vcpus={**programs.vcpus, machine.vcpus: loads})
    pcpus = machine.pcpus and machine.pcpus + 1
    larger = replace(machine, vcpus=machine.vcpus + 1, starts=(*starts, starts[0]), pcpus=pcpus)
    return build_world(loaded.slug, larger, more, experiment.params, monitors=monitor_factories())


@pytest.mark.parametrize("loaded", cases(), ids=catalogue.pair_id)
def test_first_states_are_clean(loaded: LoadedScenario) -> None:
    result = search(with_another(loaded), max_states=STATES, reduce=True)
    assert not result.findings
    assert result.complete or result.states >= STATES


@pytest.mark.slow
@pytest.mark.parametrize("loaded", cases(), ids=catalogue.pair_id)
def test_nothing_is_found(loaded: LoadedScenario) -> None:
    result = search(with_another(loaded), max_states=STATES_AT_MOST, reduce=True)
    assert not result.findings
    assert not result.deadlocks
    assert result.complete or result.states >= STATES_AT_MOST


def main(states: int) -> None:
    """One line a scenario: states, whether these are all, CPU seconds."""
    for loaded in cases():
        began = process_time()
        result = search(with_another(loaded), max_states=states, reduce=True)
        found = [finding.code for finding in result.findings]
        whole = "all" if result.verdict is Verdict.CLEAN else ", ".join(found) or "not all"
        took = process_time() - began
        sys.stdout.write(f"{loaded.slug:28} {result.states:>10,} {whole:14} {took:6.1f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STATES_AT_MOST)
