"""Each feature with more vCPUs than its scenario has: they load a page that the others use.

A protocol between two parties may fail with a third: one more that is flushed, kicked, waited for,
or that shares a shadow page. Which of these worlds can be searched whole is what
``python -m tests.quality.test_more_vcpus [STATES]`` prints.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from time import perf_counter, process_time

import pytest

from tests import catalogue
from vmm.engine.world import World
from vmm.machine import MachineConfig, build_world
from vmm.scenario.loading import LoadedScenario
from vmm.scenario.wiring import monitor_factories, programs_of
from vmm.search.exhaustive import search
from vmm.search.result import Verdict
from vmm.units import Gva
from vmm.vcpu.guest import Guest

UNPAGED = 0x2000
"""Where a guest without paging loads from."""
COUNTS = (2, 3)
STATES, STATES_AT_MOST = 800, 5_000_000


@cache
def cases(vcpus: int) -> tuple[LoadedScenario, ...]:
    """The scenarios of features, on machines with at most so many vCPUs."""
    found = []
    for loaded in catalogue.searchable():
        machine = catalogue.small(loaded).machine
        if machine is not None and machine.features and machine.vcpus <= vcpus and machine.spaces:
            found.append(loaded)
    return tuple(found)


def with_vcpus(loaded: LoadedScenario, vcpus: int) -> World:
    """The small world of a scenario with so many vCPUs, the more in the space of the first one."""
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
    more = dict.fromkeys(range(machine.vcpus, vcpus), loads)
    programs = replace(programs, vcpus={**programs.vcpus, **more})
    larger = _with_vcpus(machine, starts, vcpus)
    return build_world(
        loaded.slug, larger, programs, experiment.params, monitors=monitor_factories()
    )


def _with_vcpus(machine: MachineConfig, starts: tuple[str, ...], vcpus: int) -> MachineConfig:
    added = vcpus - machine.vcpus
    pcpus = machine.pcpus and machine.pcpus + added
    return replace(machine, vcpus=vcpus, starts=(*starts, *starts[:1] * added), pcpus=pcpus)


@pytest.mark.parametrize("loaded", cases(COUNTS[-1]), ids=catalogue.pair_id)
def test_first_states_are_clean(loaded: LoadedScenario) -> None:
    result = search(with_vcpus(loaded, COUNTS[-1]), max_states=STATES, reduce=True)
    assert not result.findings
    assert result.complete or result.states >= STATES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loaded", "vcpus"),
    [(loaded, vcpus) for vcpus in COUNTS for loaded in cases(vcpus)],
    ids=catalogue.pair_id,
)
def test_nothing_is_found(loaded: LoadedScenario, vcpus: int) -> None:
    result = search(with_vcpus(loaded, vcpus), max_states=STATES_AT_MOST, reduce=True)
    assert not result.findings
    assert not result.deadlocks
    assert result.complete or result.states >= STATES_AT_MOST


def main(states: int) -> None:
    """One line a world: vCPUs, states, whether these are all, CPU and wall seconds."""
    for vcpus in COUNTS:
        for loaded in cases(vcpus):
            began, since = process_time(), perf_counter()
            result = search(with_vcpus(loaded, vcpus), max_states=states, reduce=True)
            found = [finding.code for finding in result.findings]
            whole = "all" if result.verdict is Verdict.CLEAN else ", ".join(found) or "not all"
            took = f"{process_time() - began:6.1f} {perf_counter() - since:6.1f}"
            sys.stdout.write(f"{loaded.slug:28} {vcpus} {result.states:>11,} {whole:14} {took}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STATES_AT_MOST)
