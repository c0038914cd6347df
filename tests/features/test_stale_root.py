"""Stale roots: nothing is built below them, and what it would lead to."""

from __future__ import annotations

import pytest

from tests import catalogue
from tests.hand import Bench, bench
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.features import fast_zap
from vmm.hw.access import LOAD
from vmm.hw.layout import REGION, page
from vmm.mmu.api import FaultResult
from vmm.strategies.random import RandomPicker
from vmm.units import Gfn
from vmm.vcpu.vcpu import Vm

ROOT_GFN = Gfn(0x10)


def machine() -> Bench:
    made = bench({"A": {int(REGION): page(2)}}, features=("stale-root", "fast-zap"))
    made.do(made.vm.mmu.roots.load(made.vcpu))
    return made


def test_a_fault_builds_below_a_good_root() -> None:
    made = machine()
    assert made.do(made.vm.mmu.fault.page_fault(made.vcpu, REGION, LOAD)) is FaultResult.RESUME
    assert len(made.leaves()) == 1


@pytest.mark.parametrize("how", ["invalid", "obsolete"])
def test_a_fault_builds_nothing_below_a_stale_root(how: str) -> None:
    made = machine()
    if how == "invalid":
        made.do(made.host.zap_table(ROOT_GFN), 1)
    else:
        made.hand.locked(fast_zap.cache_of(made.vm.mmu).new_generation())
    free = made.hand[made.vm.mmu.cache.free]
    assert made.do(made.vm.mmu.fault.page_fault(made.vcpu, REGION, LOAD)) is FaultResult.RESUME
    assert (made.leaves(), made.hand[made.vm.mmu.cache.free]) == ({}, free)


def test_zapscape_leads_to_pages_that_stand_on_the_active_list_twice() -> None:
    """Freed without being taken off the list, then made again; the audits see the cause of it."""
    world = catalogue.small(catalogue.main_scenario("zapscape"), "zapscape").world()
    audits = ("audit/cache-lists", "audit/pool-exact")
    world.monitors = [made for made in world.monitors if made.name not in audits]
    assert isinstance(world.model, Vm)
    run = Run(world, RandomPicker(0))
    assert not drive(run).findings
    active = run.memory[world.model.mmu.cache.active.index]
    assert len(dict.fromkeys(active)) < len(active)
