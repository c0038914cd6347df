"""The lockless walk: what it sees, and that nothing is freed under it."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.engine.world import World
from vmm.features import lockless_walk
from vmm.hw.access import LOAD, STORE, AccessKind
from vmm.hw.layout import REGION, page
from vmm.hw.pcpu import Irq
from vmm.mmu.api import FaultResult
from vmm.units import Gva
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.vcpu import Mode, Vcpu

DATA, OTHER = REGION, Gva(REGION + 0x1000)
SPACES = {"A": {int(DATA): page(2), int(OTHER): page(3, writable=False)}}
MIDDLE_TABLE = 0x12


def machine() -> Bench:
    made = bench(SPACES, features=("lockless-walk",))
    made.do(made.vm.mmu.roots.load(made.vcpu))
    return made


def fault(made: Bench, gva: int, kind: AccessKind) -> bool:
    """Whether a fault took mmu_lock."""
    before = len(made.hand.taken)
    result = made.do(made.vm.mmu.fault.page_fault(made.vcpu, Gva(gva), kind))
    assert result is FaultResult.RESUME or kind.write
    assert made.hand[made.vcpu.mode] is Mode.OUTSIDE_GUEST_MODE
    assert made.hand[made.vcpu.pcpu.irq] is Irq.ON
    return any(op.kind == "acquire" for op in made.hand.taken[before:])


def test_a_fault_that_the_shadow_has_answered_takes_no_lock() -> None:
    made = machine()
    assert fault(made, DATA, LOAD)
    assert not fault(made, DATA, LOAD)
    assert not fault(made, DATA, STORE)


def test_a_fault_that_needs_more_rights_goes_on() -> None:
    made = machine()
    fault(made, OTHER, LOAD)
    before = len(made.hand.taken)
    made.do(made.vm.mmu.fault.page_fault(made.vcpu, OTHER, STORE))
    assert any("gpte" in str(op) for op in made.hand.taken[before:]), "the guest's tables decide"


# --- each step bears weight ---


async def faults(cpu: Guest) -> None:
    await cpu.load(DATA)


async def warms(cpu: Guest) -> None:
    await cpu.load(OTHER)


async def zaps(host: Host) -> None:
    await host.zap_table(MIDDLE_TABLE)


def world(*mutants: type) -> World:
    return tiny(
        SPACES,
        faults,
        setups=(warms,),
        hosts={"alias": zaps},
        features=("lockless-walk",),
        overrides={"PageFault": mutants} if mutants else None,
    )


class InterruptsOn(lockless_walk.PageFault):
    async def walk_begin(self, vcpu: Vcpu) -> None:
        await vcpu.mode.set(Mode.READING_SHADOW_PAGE_TABLES, serialising=True)


class PublishedLate(lockless_walk.PageFault):
    """Says that it reads when it is done."""

    async def walk_begin(self, vcpu: Vcpu) -> None:
        await vcpu.pcpu.interrupts_off()

    async def walk_end(self, vcpu: Vcpu) -> None:
        await vcpu.mode.set(Mode.READING_SHADOW_PAGE_TABLES)
        await super().walk_end(vcpu)


def test_no_page_is_freed_under_the_walk() -> None:
    assert exhausted(world()).states > 500


@pytest.mark.parametrize("mutant", [InterruptsOn, PublishedLate])
def test_without_one_step_a_freed_page_is_read(mutant: type) -> None:
    assert codes(world(mutant)) == (
        "lifetime/freed-under-walk",
        "isolation/page-given-back",
    )
