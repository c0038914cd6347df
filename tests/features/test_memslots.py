"""Memory slots by hand: what a fault finds, what a change leaves; each step bears weight."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.engine.grace import Flip
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.features import memslots
from vmm.features.memslots import UNCLAIMED, MmioExit, Slot, Slots, slots_of
from vmm.hw.access import LOAD, AccessKind, GuestFault
from vmm.hw.layout import REGION, page
from vmm.mmu import fault
from vmm.mmu.api import FaultResult
from vmm.units import Gfn, Gpa, Gva
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host

DATA, DEVICE, OTHER = REGION, REGION + 0x1000, REGION + 0x2000
FRAME, NO_FRAME = 0x1000, 0x2000
SPACES = {"A": {int(DATA): page(FRAME), int(DEVICE): page(NO_FRAME), int(OTHER): page(3)}}
LOW = (0, FRAME)
HOST = 1
"""The number in whose name host threads act."""


def machine(*slots: tuple[int, int]) -> Bench:
    made = bench(SPACES, features=("memslots",), memslots=slots or (LOW, (FRAME, 1)))
    made.do(made.vm.mmu.roots.load(made.vcpu))
    return made


def slots(made: Bench) -> Slots:
    found: Slots = made.hand[slots_of(made.vm.mmu).memslots]
    return found


def load(made: Bench, gva: int) -> int | GuestFault:
    """Load, and be out of the guest again."""
    value = made.do(made.guest.load(gva))
    made.do(made.vm.loop.leave(made.vcpu, "halt"))
    return value


def mapped(made: Bench, gfn: int) -> bool:
    return bool(made.hand[made.vm.mmu.rmap.chains[Gfn(gfn)]])


# --- what an access finds ---


def test_a_frame_of_a_slot_is_mapped() -> None:
    made = machine()
    made.do(made.guest.store(DATA, 7))
    assert load(made, DATA) == 7
    assert mapped(made, FRAME)
    assert not made.hand.said(MmioExit)


def test_a_frame_without_a_slot_is_a_device() -> None:
    made = machine()
    assert load(made, DEVICE) == UNCLAIMED
    assert made.do(made.guest.store(DEVICE + 8, 1)) is None
    assert made.hand.said(MmioExit) == [
        MmioExit(0, Gpa(NO_FRAME << 12), write=False),
        MmioExit(0, Gpa((NO_FRAME << 12) + 8), write=True),
    ]
    assert not mapped(made, NO_FRAME)


def test_faults_of_the_guests_own_are_as_ever() -> None:
    made = machine()
    assert isinstance(load(made, DEVICE + 0x8000), GuestFault)


def test_what_was_mapped_goes_when_its_entry_names_a_device() -> None:
    made = machine()
    load(made, OTHER)
    gpte = made.vm.layout.gpte("A", Gva(OTHER))
    made.poke(gpte, page(NO_FRAME).entry())
    fault = made.vm.mmu.fault.page_fault(made.vcpu, Gva(OTHER), AccessKind(write=True))
    assert made.do(fault) is FaultResult.EMULATE
    assert not mapped(made, 3)


def test_a_fault_that_meets_an_invalid_slot_is_retried() -> None:
    made = machine()
    deleting = made.hand.start(made.host.delete_slot(FRAME), HOST)
    deleting.until(lambda op: isinstance(op, Flip))
    assert slots(made) == Slots(0, (Slot(*LOW), Slot(FRAME, 1, invalid=True)), updating=True)
    faulting = made.vm.mmu.fault.page_fault(made.vcpu, Gva(DATA), LOAD)
    assert made.do(faulting) is FaultResult.RETRY
    assert not mapped(made, FRAME)
    deleting.finish()
    assert load(made, DATA) == UNCLAIMED


# --- what a change leaves ---


def test_a_slot_that_goes_takes_its_mappings_and_the_shadows_of_its_tables_along() -> None:
    made = bench(
        {"A": {int(OTHER): page(3)}},
        features=("memslots",),
        memslots=((0, 0x13), (0x13, 1), (0x14, FRAME)),
    )
    made.do(made.vm.mmu.roots.load(made.vcpu))
    load(made, OTHER)
    assert made.pages(0x13), "the leaf table"
    made.do(made.host.delete_slot(0x13), HOST)
    assert not made.pages(0x13)
    assert not mapped(made, 0x13)


def test_generations_count_changes_and_deletion_is_two() -> None:
    made = machine()
    made.do(made.host.delete_slot(FRAME), HOST)
    assert slots(made) == Slots(2, (Slot(*LOW),))
    made.do(made.host.create_slot(FRAME, 2), HOST)
    assert slots(made) == Slots(3, (Slot(*LOW), Slot(FRAME, 2)))
    made.do(made.host.move_slot(FRAME, NO_FRAME), HOST)
    assert slots(made) == Slots(5, (Slot(*LOW), Slot(NO_FRAME, 2)))
    assert load(made, DATA) == UNCLAIMED
    assert load(made, DEVICE) == 0


def test_the_notifier_finds_no_sptes_without_a_slot() -> None:
    made = machine()
    load(made, DATA)
    cell = slots_of(made.vm.mmu).memslots
    made.hand[cell] = Slots(0, (Slot(*LOW),))
    made.do(made.host.unmap(FRAME), HOST)
    assert mapped(made, FRAME)


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        (lambda host: host.create_slot(FRAME - 1, 2), r"overlaps gfn 0x0 \+ 4096: choose"),
        (lambda host: host.delete_slot(5), "no memory slot begins at gfn 0x5"),
        (lambda host: host.move_slot(FRAME, 7), r"overlaps gfn 0x0 \+ 4096: choose other frames"),
        (lambda host: host.delete_slot(0), "too large to go: 512 frames are the most"),
    ],
)
def test_what_cannot_be_is_refused(program: Any, complaint: str) -> None:
    made = machine()
    with pytest.raises(UsageError, match=complaint):
        made.do(program(made.host), HOST)


def test_slots_take_the_feature() -> None:
    with pytest.raises(UsageError, match=r'give it features=\("memslots",\)'):
        bench(SPACES, memslots=(LOW,))
    made = bench(SPACES)
    for program in (made.host.create_slot, made.host.delete_slot):
        with pytest.raises(UsageError, match="needs the feature memslots"):
            made.do(program(1), HOST)


def test_without_slots_given_all_frames_have_memory() -> None:
    made = bench(SPACES, features=("memslots",))
    load(made, DEVICE)
    assert not made.hand.said(MmioExit)


# --- each step bears weight ---


async def uses(cpu: Guest) -> None:
    await cpu.load(DATA)


async def warms(cpu: Guest) -> None:
    await cpu.load(OTHER)


async def deletes(host: Host) -> None:
    await host.delete_slot(FRAME)
    await host.unmap(FRAME)


async def moves(host: Host) -> None:
    await host.move_slot(FRAME, NO_FRAME)
    await host.unmap(FRAME)


def world(program: Any, *mutants: type) -> World:
    component = mutants[0].__mro__[1].__name__ if mutants else ""
    return tiny(
        SPACES,
        uses,
        setups=(warms,),
        hosts={"userspace": program},
        features=("memslots",),
        memslots=(LOW, (FRAME, 1)),
        overrides={component: mutants} if mutants else None,
        goals=("page given back",),
    )


class NoSection(memslots.PageFault):
    """A fault that nobody waits for."""

    async def page_fault(self, vcpu: Any, gva: Any, kind: Any) -> Any:
        return await fault.PageFault.page_fault(self, vcpu, gva, kind)


class NoZap(memslots.Host):
    async def flush_slot(self, slot: Slot) -> None:
        del slot


class NoGracePeriod(memslots.Host):
    async def install_slots(self, slots: Any, *events: Any) -> None:
        generation = (await self._slots.memslots).generation
        await self.publish(Slots(generation, slots, updating=True))
        await self.bump_generation(events)


@pytest.mark.parametrize("program", [deletes, moves])
def test_nothing_of_a_slot_is_left(program: Any) -> None:
    assert exhausted(world(program)).states > 500


@pytest.mark.parametrize("program", [deletes, moves])
@pytest.mark.parametrize("mutant", [NoSection, NoZap, NoGracePeriod])
def test_without_one_step_something_is(program: Any, mutant: type) -> None:
    (found,) = codes(world(program, mutant))
    assert found in ("isolation/page-given-back", "lifetime/memslot")
