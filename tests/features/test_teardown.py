"""A VM goes when its vCPUs are closed, and takes everything with it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from vmm.engine.monitor import Finding, Step, View
from vmm.engine.ops import WaitUntil
from vmm.errors import UsageError
from vmm.hw.access import STORE
from vmm.hw.events import GiveBack
from vmm.hw.layout import REGION, page
from vmm.mmu.api import MmuDestroyed
from vmm.monitors import teardown
from vmm.units import Gfn


def machine(**config: Any) -> Bench:
    """Two vCPUs, each with its root and one page, outside the guest."""
    spaces = {"A": {int(REGION): page(2)}, "B": {int(REGION): page(2)}}
    made = bench(spaces, vcpus=2, starts=("A", "B"), features=("teardown",), **config)
    for cpu in made.vm.vcpus:
        made.do(made.vm.mmu.roots.load(cpu))
        made.do(made.vm.mmu.fault.page_fault(cpu, REGION, STORE))
    return made


def left(made: Bench) -> tuple[Finding, ...]:
    """What the monitor says of the end."""
    monitor = teardown.SPEC.build(made.hand.world, made.vm)
    assert monitor is not None
    task = made.hand.world.tasks[0]
    step = Step(task, made.vm.mmu.lock.release_op, None, (), (MmuDestroyed(),))
    return monitor.on_event(None, MmuDestroyed(), step, View(made.hand.memory.__getitem__))[1]


def test_the_vm_waits_for_its_last_vcpu() -> None:
    made = machine()
    doing = made.hand.start(made.host.destroy_vm(), 2)
    assert isinstance(doing.op, WaitUntil)
    made.do(made.guests[0].close())
    assert not doing.enabled
    made.do(made.guests[1].close(), 1)
    assert doing.enabled


def test_nothing_is_left() -> None:
    made = machine()
    for number, guest in enumerate(made.guests):
        made.do(guest.close(), number)
    assert left(made), "before"
    made.do(made.host.destroy_vm(), 2)
    mmu = made.vm.mmu
    assert made.hand[mmu.cache.active] == ()
    assert made.hand[mmu.rmap.chains[Gfn(2)]] == ()
    assert len(made.hand.said(GiveBack)) == 8
    assert made.hand.said(MmuDestroyed) == [MmuDestroyed()]
    assert not left(made)


def test_what_is_left_is_named() -> None:
    made = machine()
    assert [finding.cells for finding in left(made)] == [
        ("active pages",),
        *[(f"sp{number} parents",) for number in (1, 2, 3, 5, 6, 7)],
        ("rmap of gfn 0x2",),
    ]


def test_without_the_feature_nothing_is_closed() -> None:
    made = bench()
    with pytest.raises(UsageError, match="teardown"):
        made.do(made.guest.close())
    with pytest.raises(UsageError, match="teardown"):
        made.do(made.host.destroy_vm(), 1)
