"""PCIDs: what is cached under each, what is kept, and what invalidates it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.bits import A, D, G, P, U, W, make_entry
from vmm.engine.events import Event
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.features import pcid, unsync, vcpu_migration
from vmm.features.pcid import NOTHING, with_pcids
from vmm.hw.access import GeneralProtection
from vmm.hw.events import InvpcidType
from vmm.hw.layout import REGION, WINDOW, page
from vmm.mmu.api import VcpuState
from vmm.search.exhaustive import search
from vmm.units import Gva
from vmm.vcpu.flush import flusher_of
from vmm.vcpu.guest import Guest
from vmm.vcpu.requests import TLB_FLUSH_CURRENT

DATA = REGION
SPACES = {"A": {int(DATA): page(2)}, "B": {int(DATA): page(3)}}
PAGE = DATA >> 12
CODE = "architecture/translation"


def running(**config: Any) -> Bench:
    """A guest that has used A under PCID 1 and B under PCID 2, and is in B."""
    made = bench(SPACES, features=("pcid",), **config)
    made.do(made.guest.set_pcide(True))
    made.do(made.guest.load_pcid("A", 1))
    made.do(made.guest.load(DATA))
    made.do(made.guest.load_pcid("B", 2, keeps=True))
    made.do(made.guest.load(DATA))
    return made


def cached(made: Bench) -> list[tuple[int, int]]:
    """PCID and host frame of what is cached of DATA."""
    return [(e.tag >> 16, e.pfn) for e in made.hand[made.vcpu.pcpu.tlb] if e.page == PAGE]


def settled(made: Bench, gva: int = WINDOW) -> None:
    """Let requests be served."""
    made.do(made.vm.loop.to_boundary(made.vcpu, Gva(gva)))


def test_entries_are_tagged_and_a_kept_root_is_used_again() -> None:
    made = running()
    assert cached(made) == [(2, 3)], "the first load of a root flushes"
    old = made.hand[made.vcpu.root]
    made.do(made.guest.load_pcid("A", 1, keeps=True))
    assert made.hand[with_pcids(made.vcpu).kept].root == old
    made.do(made.guest.load(DATA))
    made.do(made.guest.load_pcid("B", 2, keeps=True))
    settled(made)
    assert made.hand[made.vcpu.root] == old
    assert cached(made) == [(1, 2), (2, 3)]


def test_a_load_without_bit_63_flushes_its_pcid_alone() -> None:
    made = running()
    made.do(made.guest.load_pcid("A", 1, keeps=True))
    made.do(made.guest.load(DATA))
    made.do(made.guest.load_pcid("B", 2))
    settled(made)
    assert cached(made) == [(1, 2)]


@pytest.mark.parametrize(
    ("what", "number", "left"),
    [
        (InvpcidType.ADDRESS, 1, []),
        (InvpcidType.PCID, 1, [(1, 2)]),
        (InvpcidType.PCID, 2, [(1, 2), (2, 3)]),
        (InvpcidType.ALL, 0, []),
        (InvpcidType.ALL_NON_GLOBAL, 0, []),
    ],
)
def test_invpcid(what: InvpcidType, number: int, left: list[tuple[int, int]]) -> None:
    """What is left of PCID 2 after an INVPCID of it is out of reach: its root is no longer kept."""
    made = running()
    made.do(made.guest.load_pcid("A", 1, keeps=True))
    made.do(made.guest.load(DATA))
    assert cached(made) == [(1, 2), (2, 3)]
    made.do(made.guest.invpcid(what, pcid=number, gva=DATA))
    gone = what is not InvpcidType.ADDRESS and number != 1
    assert (made.hand[with_pcids(made.vcpu).kept] == NOTHING) == gone
    settled(made)
    if what is InvpcidType.PCID and number == 1:
        left = [(2, 3)]
    assert cached(made) == left


def test_pcids_off_forgets_everything() -> None:
    made = running()
    made.do(made.guest.set_pcide(False))
    settled(made)
    assert cached(made) == []
    assert made.hand[with_pcids(made.vcpu).kept] == NOTHING
    made.do(made.guest.load_pcid("A", 0))
    made.do(made.guest.load(DATA))
    assert cached(made) == [(0, 2)]


def test_what_the_processor_refuses() -> None:
    made = running()
    assert isinstance(made.do(made.guest.mov_cr0(pg=False)), GeneralProtection)
    made.do(made.guest.set_pcide(False))
    assert isinstance(made.do(made.guest.set_pcide(True)), GeneralProtection), "CR3 has a PCID"


def test_pcids_are_a_feature() -> None:
    made = bench(SPACES)
    with pytest.raises(UsageError, match="pcid"):
        made.do(made.guest.set_pcide(True))
    with pytest.raises(UsageError, match="pcid"):
        made.do(made.guest.invpcid(InvpcidType.ALL))


# --- judged by the architecture's rules ---


class ForgetsKeptRoot(pcid.Shadowing):
    """INVLPG drops what lies below the root in use."""

    async def invlpg(self, vcpu: VcpuState, gva: Gva, *events: Event) -> None:
        await unsync.Shadowing.invlpg(self, vcpu, gva, *events)


async def warms(cpu: Guest) -> None:
    """A under PCID 1, B under PCID 2, DATA cached in both; B's table is written natively."""
    await cpu.set_pcide(True)
    await cpu.load_pcid("B", 2)
    await cpu.load(DATA)
    await cpu.load_pcid("A", 1)
    await cpu.load(DATA)
    await cpu.store_pte(DATA, frame=3, space="B")


async def flushes_b(cpu: Guest) -> None:
    await cpu.load_pcid("B", 2, keeps=True)
    await cpu.load(DATA)
    await cpu.load_pcid("A", 1, keeps=True)
    await cpu.store_pte(DATA, frame=4, space="B")
    await cpu.load_pcid("B", 2)
    await cpu.load(DATA)


async def keeps_b(cpu: Guest) -> None:
    await cpu.load_pcid("B", 2, keeps=True)
    await cpu.load(DATA)
    await cpu.load_pcid("A", 1, keeps=True)
    await cpu.store_pte(DATA, frame=4, space="B")
    await cpu.load_pcid("B", 2, keeps=True)
    await cpu.load(DATA)


async def invalidates_b(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4, space="B")
    await cpu.invpcid(InvpcidType.ADDRESS, pcid=2, gva=DATA)
    await cpu.load_pcid("B", 2, keeps=True)
    await cpu.load(DATA)


async def invalidates_all_of_b(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4, space="B")
    await cpu.invpcid(InvpcidType.PCID, pcid=2)
    await cpu.load_pcid("B", 2, keeps=True)
    await cpu.load(DATA)


async def invalidates_all(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4, space="B")
    await cpu.invpcid(InvpcidType.ALL_NON_GLOBAL)
    await cpu.load_pcid("B", 2, keeps=True)
    await cpu.load(DATA)


def judged(program: Any, **overrides: Sequence[type]) -> World:
    features = ("pcid", "flush-debt")
    return tiny(SPACES, program, setups=[warms], features=features, overrides=overrides)


@pytest.mark.parametrize(
    "program", [flushes_b, keeps_b, invalidates_b, invalidates_all_of_b, invalidates_all]
)
def test_a_guest_with_pcids_sees_what_a_processor_may_show(program: Any) -> None:
    exhausted(judged(program))


def test_the_page_of_another_pcid_is_dropped_below_its_root() -> None:
    assert codes(judged(invalidates_b, Shadowing=[ForgetsKeptRoot])) == (CODE,)


# --- with other features ---


async def goes_on_in_b(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.load(DATA)
    await cpu.load_pcid("B", 2, keeps=True)
    await cpu.load(DATA)


async def leaves_a_flush(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4, space="B")
    await cpu.flush_preempted(0)


class SyncsCurrentRoot(pcid.Roots):
    """A flush left to a preempted vCPU syncs the root in use alone."""

    async def sync_all(self, vcpu: VcpuState) -> None:
        await self.sync(vcpu)


def deferred(**overrides: Sequence[type]) -> World:
    programs = (goes_on_in_b, leaves_a_flush)
    features = ("pcid", "pv-flush")
    return tiny(SPACES, *programs, setups=[warms], features=features, overrides=overrides)


def test_a_flush_left_to_a_preempted_vcpu_is_about_every_pcid() -> None:
    result = search(deferred(), reduce=True)
    assert (result.complete, result.findings) == (True, ())
    result = search(deferred(Roots=[SyncsCurrentRoot]), reduce=True)
    assert [found.code for found in result.findings] == [CODE]


async def flushes_b_elsewhere(cpu: Guest) -> None:
    """If it moves before it flushes B, and back while it is in A."""
    await flushes_b(cpu)
    await cpu.load_pcid("A", 1, keeps=True)
    await cpu.load(DATA)
    await cpu.load_pcid("B", 2, keeps=True)
    await cpu.load(DATA)


class KeepsOtherPcids(vcpu_migration.RunLoop):
    """A vCPU that arrives flushes the PCID in use alone."""

    async def arrive(self, vcpu: vcpu_migration.Vcpu) -> None:
        await flusher_of(vcpu.mmu).make_request(vcpu, TLB_FLUSH_CURRENT)


def moving(**overrides: Sequence[type]) -> World:
    programs, features = (flushes_b_elsewhere,), ("pcid", "vcpu-migration")
    return tiny(SPACES, *programs, setups=[warms], features=features, pcpus=2, overrides=overrides)


def test_a_vcpu_that_arrives_flushes_every_pcid() -> None:
    result = search(moving(), reduce=True)
    assert (result.complete, result.findings) == (True, ())
    result = search(moving(RunLoop=[KeepsOtherPcids]), reduce=True)
    assert [found.code for found in result.findings] == [CODE]


# --- global pages ---


def entry(frame: int) -> int:
    return make_entry(frame, P | W | U | A | D | G)


async def sets_both(cpu: Guest, frame: int) -> None:
    """Map DATA globally, in both spaces."""
    for space in SPACES:
        await cpu.store(cpu.window(DATA, space), entry(frame))


async def warms_global(cpu: Guest) -> None:
    await cpu.set_pcide(True)
    await cpu.load_pcid("B", 2)
    await sets_both(cpu, 2)
    await cpu.load(DATA)
    await cpu.load_pcid("A", 1)
    await cpu.load(DATA)


async def invalidates_a_global_page(cpu: Guest) -> None:
    await cpu.load_pcid("B", 2, keeps=True)
    await sets_both(cpu, 4)
    await cpu.invlpg(DATA)
    await cpu.load_pcid("A", 1, keeps=True)
    await cpu.load(DATA)


def with_global(program: Any, **overrides: Sequence[type]) -> World:
    features = ("pcid", "flush-debt")
    return tiny(SPACES, program, setups=[warms_global], features=features, overrides=overrides)


def test_a_global_page_is_dropped_under_every_pcid() -> None:
    exhausted(with_global(invalidates_a_global_page))


def test_to_forget_the_kept_root_is_found() -> None:
    mutant = {"Shadowing": [ForgetsKeptRoot]}
    assert codes(with_global(invalidates_a_global_page, **mutant)) == (CODE,)
