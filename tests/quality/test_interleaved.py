"""Random guests whose instructions overlap: the shadow follows at every moment.

What the guests compute is anybody's guess, but whenever mmu_lock is free, every translation that a
processor could take from the shadow, or has in its TLB, must be what the guest's tables say. What
``bare_metal`` excuses is excused here, too.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.hand import bench
from tests.quality.bare_metal import BareMetal, world_of, writes_its_own_walk
from tests.quality.random_guests import random_plan
from tests.quality.shadow_walk import assert_shadow_follows, emulating, plain_machine
from vmm.bits import NX, A, D, P, U, W, make_entry
from vmm.engine.live import Run
from vmm.engine.monitor import Finding
from vmm.engine.trace import Ending
from vmm.hw.layout import REGION, page
from vmm.mmu.shadow_page import SpteRef
from vmm.strategies.random import RandomPicker
from vmm.vcpu.vcpu import Vm

MACHINES: dict[str, dict[str, Any]] = {
    "two vCPUs": {"vcpus": 2},
    "three vCPUs": {"vcpus": 3},
    "a pool too small": {"vcpus": 2, "shadow_pages": 20},
    "zaps by the host": {"vcpus": 2, "host": "zap all,zap table"},
    "two-phase zaps": {"vcpus": 2, "host": "zap all,zap table", "features": ("two-phase-zap",)},
    "pages reclaimed": {"vcpus": 2, "host": "reclaim", "features": ("host-paging",)},
}


def overlapping(
    seed: int, count: int, *, vcpus: int, host: str = "", look: bool = True, **config: Any
) -> int:
    """One run, looked at now and then and at its end; gives the number of translations seen."""
    random = Random(seed)
    made = random_plan(seed, count, vcpus=vcpus, host=host)
    world = world_of(made, **config)
    world.monitors[:] = [one for one in world.monitors if not isinstance(one, BareMetal)]
    assert isinstance(world.model, Vm)
    run = Run(world, RandomPicker(seed), step_budget=20_000)
    run.begin()
    try:
        seen = 0
        while (number := run.next()) is not None:
            run.step(number)
            if look and random.random() < 0.02:
                seen += assert_shadow_follows(world.model, run.memory, emulating=emulating(run))
        if any(is_excused(world.model, run, found) for found in run.findings):
            return seen
        loops = [found.code for found in run.findings] == ["guest/fault-loop"]
        if loops or run.outcome().ending is Ending.STEP_BUDGET:
            plain = plain_machine(world.model, run.memory)
            endless = [act for act in made.acts if writes_its_own_walk(plain, act)]
            assert endless, f"seed {seed}: {run.outcome()}"
            return seen
        assert run.outcome().ending is Ending.QUIESCENT, run.findings
        return seen + (assert_shadow_follows(world.model, run.memory) if look else 0)
    finally:
        run.close()


def is_excused(vm: Vm, run: Run, finding: Finding) -> bool:
    """The supervisor, with AC clear, uses what it was granted with CR0.WP clear and AC set."""
    if finding.code != "architecture/translation":
        return False
    (vcpu,) = [vcpu for vcpu in vm.vcpus if vcpu.pcpu.tlb.name in finding.cells]
    controls = run.memory[vcpu.registers.index].controls
    return controls.smap and not controls.wp and not controls.ac


@pytest.mark.parametrize("machine", MACHINES)
def test_shadow_follows(machine: str) -> None:
    assert sum(overlapping(seed, 30, **MACHINES[machine]) for seed in range(4)) > 25


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_shadow_follows_in_many_guests(machine: str) -> None:
    for seed in range(1000, 1500):
        overlapping(seed, 40, **MACHINES[machine])


def test_without_the_cache_runs_end_quietly() -> None:
    """There the shadow may be behind; the oracles watch all the same."""
    for seed in range(4):
        overlapping(seed, 30, vcpus=3, features=("no-cache",), shadow_pages=80, look=False)


@pytest.mark.slow
@pytest.mark.parametrize("era", ["2.6.28", "3.6", "5.15", "2026"])
def test_guests_of_later_eras_end_quietly(era: str) -> None:
    """With unsync pages the shadow may be behind, too."""
    for seed in range(100, 200):
        overlapping(seed, 40, vcpus=3, era=era, host="zap all,zap table,reclaim", look=False)


# --- the look at the shadow is no rubber stamp ---


def warmed() -> tuple[Vm, list[Any]]:
    made = bench({"A": {REGION: page(2)}}, vcpus=2)
    for guest in made.guests:
        made.do(guest.store(REGION, 1), guest.number)
    assert assert_shadow_follows(made.vm, made.hand.memory) == 2
    return made.vm, made.hand.memory


ALL = P | W | U | A | D


@pytest.mark.parametrize(
    "gpte",
    [
        0,
        make_entry(3, ALL),
        make_entry(2, ALL & ~W),
        make_entry(2, ALL & ~U),
        make_entry(2, ALL & ~D),
        make_entry(2, ALL & ~A),
        make_entry(2, ALL | NX),
    ],
)
def test_a_shadow_behind_its_table_is_seen(gpte: int) -> None:
    vm, memory = warmed()
    gpa = vm.layout.gpte("A", REGION)
    memory[vm.mmu.memory.word(gpa).index] = gpte
    with pytest.raises(AssertionError, match=r"gva 0x400000"):
        assert_shadow_follows(vm, memory)
    assert assert_shadow_follows(vm, memory, emulating=(gpa,)) == 0


def test_a_stale_tlb_entry_is_seen() -> None:
    vm, memory = warmed()
    memory[vm.mmu.cache.sptes[SpteRef(3, 0)].index] &= ~W
    with pytest.raises(AssertionError, match="in the TLB"):
        assert_shadow_follows(vm, memory)
