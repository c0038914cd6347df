"""RCU: who is inside, and who waits."""

from __future__ import annotations

from tests.hand import Bench, bench
from vmm.engine.grace import Drained, Readers
from vmm.features import rcu_free
from vmm.hw.access import LOAD
from vmm.hw.layout import REGION, page
from vmm.hw.pcpu import Irq
from vmm.mmu.api import FaultResult
from vmm.units import Gva
from vmm.vcpu.vcpu import Mode

MIDDLE_TABLE = 0x12
HOST = 1


def machine() -> Bench:
    made = bench({"A": {int(REGION): page(2)}}, features=("rcu-free",))
    made.do(made.vm.mmu.roots.load(made.vcpu))
    assert made.do(made.vm.mmu.fault.page_fault(made.vcpu, Gva(REGION), LOAD)) is FaultResult.RESUME
    return made


def cache(made: Bench) -> rcu_free.PageCache:
    assert isinstance(made.vm.mmu.cache, rcu_free.PageCache)
    return made.vm.mmu.cache


def test_a_walk_says_nothing_but_that_it_reads() -> None:
    made = machine()
    walking = made.hand.start(made.vm.mmu.fault.page_fault(made.vcpu, Gva(REGION), LOAD))
    walking.until(lambda op: "spte" in str(op))
    assert made.hand[cache(made).rcu] == Readers(0, ((0,), ()))
    assert made.hand[made.vcpu.mode] is Mode.OUTSIDE_GUEST_MODE
    assert made.hand[made.vcpu.pcpu.irq] is Irq.ON
    walking.finish()
    assert made.hand[cache(made).rcu] == Readers()


def test_who_zaps_waits_for_readers_that_there_are() -> None:
    made = machine()
    walking = made.hand.start(made.vm.mmu.fault.page_fault(made.vcpu, Gva(REGION), LOAD))
    walking.until(lambda op: "spte" in str(op))
    zapping = made.hand.start(made.host.zap_table(MIDDLE_TABLE), HOST)
    zapping.until(lambda op: isinstance(op, Drained))
    assert not zapping.enabled
    walking.until(lambda op: op.kind == "read unlock")
    walking.step()
    assert zapping.enabled
    zapping.finish()


def test_without_readers_pages_are_freed_at_once() -> None:
    made = machine()
    assert made.pages(MIDDLE_TABLE)
    made.do(made.host.zap_table(MIDDLE_TABLE), HOST)
    assert made.hand[cache(made).rcu] == Readers()
    assert not made.pages(MIDDLE_TABLE)
