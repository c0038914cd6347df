"""Unsync pages by hand: what goes out of sync, what brings it back, and what each step is for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.bits import W, frame_of
from vmm.engine.world import World
from vmm.features import unsync
from vmm.hw.access import GuestFault
from vmm.hw.events import Invlpg, TlbFlush
from vmm.hw.layout import REGION, page
from vmm.mmu.api import EmulatedStore
from vmm.search.exhaustive import search
from vmm.search.result import Verdict
from vmm.units import Gfn, Gva
from vmm.vcpu.guest import Guest
from vmm.vcpu.requests import MMU_SYNC, TLB_FLUSH
from vmm.vcpu.run_loop import ANY_GVA

DATA, OTHER = REGION, Gva(REGION + 0x1000)
FAR = Gva(REGION + (1 << 30))
SPACES = {"A": {int(DATA): page(2), int(OTHER): page(3)}}
UPPER, TABLE = Gfn(0x12), Gfn(0x13)


def running(vcpus: int = 1, **config: Any) -> Bench:
    """Each vCPU has used both pages."""
    made = bench(SPACES, vcpus=vcpus, features=("unsync",), **config)
    for guest in made.guests:
        made.do(guest.load(DATA), guest.number)
        made.do(guest.load(OTHER), guest.number)
        made.do(made.vm.loop.leave(guest.vcpu, "test"), guest.number)
    return made


def shadow(made: Bench, gfn: int) -> unsync.ShadowPage:
    (number,) = made.pages(gfn)
    return unsync.unsync_page(made.vm.mmu.cache.pages[number])


def frames(made: Bench) -> list[int]:
    """What the leaf table's shadow maps for the two pages, 0 for nothing."""
    number = shadow(made, TABLE).number
    return [frame_of(made.spte(number, index)) for index in (0, 1)]


def writable(made: Bench) -> bool:
    """Whether the table may be written natively."""
    refs = made.hand[made.vm.mmu.rmap.chains[TABLE]]
    return any(made.hand[made.vm.mmu.cache.sptes[ref]] & W for ref in refs)


@pytest.mark.parametrize("mode", ["32-bit", "pae", "4-level"])
def test_a_leaf_table_is_written_natively_and_marked_from_the_root(mode: str) -> None:
    made = running(mode=mode)
    made.do(made.guest.store_pte(DATA, frame=4))
    assert made.hand.said(EmulatedStore) == []
    assert writable(made)
    assert frames(made)[0] == 2, "the shadow is old"
    (page_,) = (n for n in made.pages(TABLE) if (n, 0) in made.leaves())
    parents = made.hand[made.vm.mmu.cache.pages[page_].parents]
    assert parents
    while parents:
        ref = parents[0]
        above = unsync.unsync_page(made.vm.mmu.cache.pages[ref.page])
        assert made.hand[above.unsync_children] == (ref.index,)
        parents = made.hand[above.parents]


def test_a_table_of_a_higher_level_stays_protected() -> None:
    made = running()
    made.do(made.guest.store_pte(DATA, frame=TABLE, level=2))
    assert len(made.hand.said(EmulatedStore)) == 1
    assert not made.hand[shadow(made, UPPER).unsync]


def test_a_read_leaves_a_table_in_sync() -> None:
    made = running()
    made.do(made.guest.load(made.guest.window(DATA)))
    assert not made.hand[shadow(made, TABLE).unsync]
    assert not writable(made)


def test_invlpg_drops_one_spte_and_leaves_the_page_unsync() -> None:
    made = running()
    for gva in (DATA, OTHER):
        made.do(made.guest.store_pte(gva, frame=4))
    made.do(made.guest.invlpg(DATA))
    assert frames(made) == [0, 3]
    assert made.hand[shadow(made, TABLE).unsync]
    made.do(made.guest.load(DATA))
    assert frames(made) == [4, 3]


def test_invlpg_counts_from_where_kvm_looks_at_the_shadow() -> None:
    """What others store natively after that is as if it came after the INVLPG."""
    made = running()
    made.do(made.guest.invlpg(DATA))
    told = [type(event) for event in made.hand.events if isinstance(event, Invlpg | TlbFlush)]
    assert told[-2:] == [Invlpg, TlbFlush]


def test_a_load_of_cr3_syncs_all() -> None:
    made = running()
    made.do(made.guest.store_pte(DATA, frame=4))
    made.do(made.guest.store_pte(OTHER, frame=3, writable=False))
    made.do(made.guest.mov_cr3("A"))
    made.do(made.vm.loop.to_boundary(made.vcpu, ANY_GVA))
    assert frames(made) == [0, 3], "another frame is left to the next fault"
    assert not made.spte(shadow(made, TABLE).number, 1) & W
    assert not made.hand[shadow(made, TABLE).unsync]
    assert not writable(made)
    assert made.hand[shadow(made, UPPER).unsync_children] == ()


def test_without_unsync_pages_a_load_of_cr3_takes_no_lock() -> None:
    made = running()
    made.do(made.guest.mov_cr3("A"))
    before = len(made.hand.taken)
    made.do(made.vm.loop.to_boundary(made.vcpu, ANY_GVA))
    lock = made.vm.mmu.lock
    assert not any(op.cell is lock for op in made.hand.taken[before:])


def test_a_guest_fault_invalidates_its_address() -> None:
    made = running()
    made.do(made.guest.store_pte(DATA, frame=2, writable=False))
    made.do(made.guest.invlpg(DATA))
    made.do(made.guest.load(DATA))
    made.do(made.guest.store_pte(DATA, frame=None))
    assert made.do(made.guest.load(DATA)) == 0, "the TLB still has it"
    assert isinstance(made.do(made.guest.store(DATA, 1)), GuestFault)
    assert frames(made)[0] == 0
    assert DATA >> 12 not in [entry.page for entry in made.hand[made.vcpu.pcpu.tlb]]


def test_zapping_clears_the_marks() -> None:
    made = running()
    made.do(made.guest.store_pte(DATA, frame=4))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    pages = [shadow(made, gfn) for gfn in (UPPER, TABLE)]
    made.do(made.host.zap_all(), 1)
    assert not any(made.hand[p.unsync] or made.hand[p.unsync_children] for p in pages)


# --- what each step is for ---


class UnsyncsAnyLevel(unsync.Shadowing):
    """Believes that every table may be written natively."""

    async def unsync_frame(self, gfn: Gfn) -> None:
        for role, number in await self.mmu.cache.buckets[gfn]:
            shadow_page = unsync.unsync_page(self.mmu.cache.pages[number])
            if role.has_gptes and not await shadow_page.unsync:
                await self.mark_unsync(shadow_page, gfn)


class MarksOneLevel(unsync.Shadowing):
    """Marks the page's parents, but nothing above."""

    async def mark_parents(self, page: Any) -> None:
        for ref in await page.parents:
            parent = unsync.unsync_page(self.mmu.cache.pages[ref.page])
            await parent.unsync_children.set((ref.index,))


async def writes_leaf_and_upper(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4)
    await cpu.store_pte(FAR, frame=TABLE, level=3)
    await cpu.load(FAR & -(1 << 30))
    await cpu.store_pte(FAR, frame=None, level=3)
    await cpu.mov_cr3("A")
    await cpu.load(DATA)


def world(**overrides: type) -> World:
    return tiny(
        {"A": {int(DATA): page(2)}},
        writes_leaf_and_upper,
        features=("unsync",),
        overrides={name: [made] for name, made in overrides.items()},
    )


def test_one_vcpu_is_clean() -> None:
    exhausted(world())


@pytest.mark.parametrize("broken", [UnsyncsAnyLevel, MarksOneLevel])
def test_a_mark_in_the_wrong_place_is_found(broken: type) -> None:
    assert codes(world(Shadowing=broken)) == ("audit/unsync-marks",)


def test_invlpg_of_a_page_in_sync_drops_no_spte() -> None:
    made = running()
    made.do(made.guest.invlpg(DATA))
    assert frames(made) == [2, 3]


def test_the_sync_is_served_before_the_flush() -> None:
    """What the sync flushes needs no second flush, and what it leaves is flushed with it."""
    made = running()
    made.do(made.guest.store_pte(DATA, frame=4))
    made.do(made.guest.mov_cr3("A"))
    requests = made.vcpu.requests
    assert made.hand[requests] & (MMU_SYNC | TLB_FLUSH) == MMU_SYNC | TLB_FLUSH
    entering = made.hand.start(made.vm.loop.enter(made.vcpu))
    entering.until(lambda op: shadow(made, TABLE).unsync in op.written)
    assert made.hand[requests] == TLB_FLUSH
    entering.finish()
    assert made.hand[requests] == 0


async def writes_and_invalidates(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4)
    await cpu.invlpg(DATA)
    await cpu.load(DATA)


async def loads_cr3(cpu: Guest) -> None:
    await cpu.mov_cr3("A")
    await cpu.load(DATA)


async def uses(cpu: Guest) -> None:
    await cpu.load(DATA)


@pytest.mark.slow
def test_three_vcpus_are_clean() -> None:
    made = tiny(
        {"A": {int(DATA): page(2)}},
        writes_and_invalidates,
        loads_cr3,
        uses,
        setups=(writes_and_invalidates,),
        features=("unsync",),
    )
    result = search(made, reduce=True)
    assert (result.verdict, result.complete) == (Verdict.CLEAN, True), result.findings


def test_the_request_is_made_by_a_load_of_cr3() -> None:
    made = running()
    made.do(made.guest.mov_cr3("A"))
    assert made.hand[made.vcpu.requests] & MMU_SYNC
