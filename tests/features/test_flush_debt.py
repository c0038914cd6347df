"""Flush debt by hand: who makes it, who pays it, and who must ask for it."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from vmm.features.flush_debt import tlbs_dirty
from vmm.hw.layout import REGION, page
from vmm.units import Gfn
from vmm.vcpu.requests import TLB_FLUSH
from vmm.vcpu.run_loop import ANY_GVA

DATA = REGION
SPACES = {"A": {int(DATA): page(2)}}


def indebted(*features: str) -> Bench:
    """A machine in which vCPU 1 has DATA in its TLB; vCPU 0 has unmapped it and synced."""
    made = bench(SPACES, vcpus=2, features=("flush-debt", *features))
    for guest in made.guests:
        made.do(guest.load(DATA), guest.number)
        made.do(made.vm.loop.leave(guest.vcpu, "test"), guest.number)
    made.do(made.guest.store_pte(DATA, frame=None))
    made.do(made.guest.mov_cr3("A"))
    made.do(made.vm.loop.to_boundary(made.vcpu, ANY_GVA))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    for vcpu in made.vm.vcpus:
        made.hand[vcpu.requests] = 0
    return made


def debt(made: Bench) -> int:
    count: int = made.hand[tlbs_dirty(made.vm.mmu)]
    return count


def asked(made: Bench) -> bool:
    return bool(made.hand[made.vm.vcpus[1].requests] & TLB_FLUSH)


def test_a_sync_owes_and_flushes_nobody_else() -> None:
    made = indebted()
    assert debt(made) == 1
    assert not asked(made)
    assert made.hand[made.vm.mmu.rmap.chains[Gfn(2)]] == ()


def test_the_notifier_pays() -> None:
    made = indebted("notifier")
    made.do(made.host.reclaim(2), 2)
    assert (debt(made), asked(made)) == (0, True)


def test_write_protection_pays() -> None:
    made = indebted()
    made.hand.locked(made.vm.mmu.shadowing.write_protect(made.vcpu, Gfn(2)))
    assert (debt(made), asked(made)) == (0, True)


@pytest.mark.parametrize("feature", ["dirty-log", "unlocked-dirty-flush"])
def test_the_dirty_log_pays(feature: str) -> None:
    made = indebted(feature)
    made.do(made.host.get_dirty_log(), 2)
    assert (debt(made), asked(made)) == (0, True)


@pytest.mark.parametrize("meanwhile", [0, 1])
def test_what_is_added_during_a_flush_stays_owed(meanwhile: int) -> None:
    made = indebted()
    cell = tlbs_dirty(made.vm.mmu)
    flushing = made.hand.start(made.vm.mmu.flusher.flush_remote(made.vcpu))
    flushing.until(lambda op: op.cell is made.vcpu.requests)
    made.hand[cell] += meanwhile
    flushing.finish()
    assert debt(made) == (2 if meanwhile else 0)


def test_a_flush_without_debt_writes_nothing() -> None:
    made = indebted()
    made.hand[tlbs_dirty(made.vm.mmu)] = 0
    before = len(made.hand.taken)
    made.do(made.vm.mmu.flusher.flush_remote(made.vcpu))
    ops = [op for op in made.hand.taken[before:] if op.cell is tlbs_dirty(made.vm.mmu)]
    assert len(ops) == 1
