"""vCPUs on several pCPUs: where they are, what they leave there, and who is interrupted."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from vmm.errors import UsageError
from vmm.features.vcpu_migration import migrating
from vmm.hw.layout import REGION, page
from vmm.hw.pcpu import Ipi, Irq
from vmm.vcpu.requests import TLB_FLUSH

SPACES = {"A": {int(REGION): page(2), int(REGION) + 0x1000: page(3)}}
FEATURES = ("vcpu-migration",)


def machine(vcpus: int = 1, pcpus: int = 2) -> Bench:
    return bench(SPACES, vcpus=vcpus, pcpus=pcpus, features=FEATURES)


def leave(made: Bench, number: int = 0) -> None:
    made.do(made.vm.loop.leave(made.vm.vcpus[number], "test"), number)


def enter(made: Bench, number: int = 0, *, moves_by: int = 0) -> None:
    made.hand.branch = moves_by
    made.do(made.vm.loop.to_boundary(made.vm.vcpus[number], REGION), number)
    made.hand.branch = 0


def cached(made: Bench, pcpu: int) -> list[tuple[int, int]]:
    return [(e.tag, e.page) for e in made.hand[made.vm.pcpus[pcpu].tlb]]


def test_what_a_vcpu_leaves_in_a_tlb_stays_until_it_comes_back() -> None:
    made = machine()
    made.do(made.guest.load(REGION))
    leave(made)
    enter(made, moves_by=1)
    assert made.hand[migrating(made.vcpu).cpu] == 1
    assert (cached(made, 0), cached(made, 1)) == ([(1, REGION >> 12)], [])
    assert [made.hand[pcpu.irq] for pcpu in made.vm.pcpus] == [Irq.ON, Irq.GUEST]
    made.do(made.guest.load(REGION))
    leave(made)
    enter(made, moves_by=1)
    assert (cached(made, 0), cached(made, 1)) == ([], [(1, REGION >> 12)])


def test_a_flush_leaves_the_entries_of_other_vcpus() -> None:
    made = machine(vcpus=2, pcpus=3)
    made.do(made.guests[1].load(REGION), 1)
    leave(made, 1)
    enter(made, 1, moves_by=1)
    made.do(made.guest.load(REGION))
    leave(made)
    enter(made, moves_by=1)  # to pCPU 1, where vCPU 1 was
    assert cached(made, 1) == [(2, REGION >> 12)]
    made.do(made.guest.load(REGION))
    assert cached(made, 1) == [(1, REGION >> 12), (2, REGION >> 12)]


def test_a_pcpu_with_another_vcpu_on_it_is_not_moved_to() -> None:
    made = machine(vcpus=2, pcpus=3)
    enter(made, moves_by=1)
    assert made.hand[migrating(made.vcpu).thread] == 0
    enter(made, 1, moves_by=2)
    assert made.hand[migrating(made.vm.vcpus[1]).thread] == 1


def test_an_ipi_goes_where_the_vcpu_is() -> None:
    made = machine()
    enter(made, moves_by=1)
    made.do(made.vm.loop.kick(made.vcpu), 1)
    assert [made.hand[pcpu.ipi] for pcpu in made.vm.pcpus] == [Ipi.NONE, Ipi.SENT]


def test_who_arrives_asks_for_a_flush() -> None:
    made = machine()
    doing = made.hand.start(made.vm.loop.to_boundary(made.vcpu, REGION))
    made.hand.branch = 1
    doing.until(lambda op: any(cell.name == "mode0" for cell in op.cells))
    assert made.hand[made.vcpu.requests] & TLB_FLUSH


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vcpus": 2, "pcpus": 1}, "2 vCPUs need a pCPU each"),
        ({"vcpus": 1, "pcpus": 2, "memory_model": "tso"}, "memory_model=tso"),
    ],
)
def test_bad_numbers_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bench(SPACES, features=FEATURES, **config)
