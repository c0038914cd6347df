"""Flags of host pages by hand: what an spte tells when it goes, and what is asked of them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.bits import W
from vmm.engine.world import World
from vmm.features import page_flags
from vmm.features.page_flags import PageAged, PageCleaned, PageFlags
from vmm.hw.layout import REGION, page
from vmm.mmu.memslots import pfn_of
from vmm.mmu.shadow_page import SpteRef
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host

FRAME, LEAF_TABLE = 2, 0x13
SPACES = {"A": {int(REGION): page(FRAME)}}
HOST = 1


def machine(*features: str) -> Bench:
    made = bench(SPACES, features=("page-flags", *features))
    made.do(made.vm.mmu.roots.load(made.vcpu))
    return made


def flags(made: Bench) -> PageFlags:
    assert isinstance(made.vm.mmu.slots, page_flags.Memslots)
    found: PageFlags = made.hand[made.vm.mmu.slots.flags]
    return found


def use(made: Bench, *, write: bool = False) -> None:
    """Access the page, and be out of the guest again."""
    made.do(made.guest.store(REGION, 1) if write else made.guest.load(REGION))
    made.do(made.vm.loop.leave(made.vcpu, "halt"))


@pytest.mark.parametrize("write", [False, True])
def test_an_spte_that_goes_tells_what_it_was(write: bool) -> None:
    made = machine()
    made.do(made.guest.store_pte(REGION, frame=FRAME, writable=write))
    use(made, write=write)
    assert FRAME not in flags(made).accessed
    made.do(made.host.zap_table(LEAF_TABLE), HOST)
    assert FRAME in flags(made).accessed
    assert (FRAME in flags(made).dirty) == write


def test_a_loss_of_w_is_told_at_once() -> None:
    made = machine()
    use(made, write=True)
    (ref,) = (SpteRef(*place) for place in made.leaves())
    made.hand.locked(made.vm.mmu.shadowing.clear_writable(ref))
    assert flags(made) == PageFlags(accessed=(), dirty=(FRAME,))


def test_ageing_takes_the_spte_and_the_flag() -> None:
    made = machine()
    use(made)
    assert made.do(made.host.age(FRAME), HOST) is True
    assert flags(made).accessed == ()
    assert made.do(made.host.age(FRAME), HOST) is False
    use(made)
    made.do(made.host.zap_table(LEAF_TABLE), HOST)
    assert made.do(made.host.age(FRAME), HOST) is True, "no spte is left, but the flag is"
    assert [event.young for event in made.hand.said(PageAged)] == [True, False, True]


def test_a_page_is_clean_once_it_was_taken() -> None:
    made = machine()
    use(made, write=True)
    made.do(made.host.reclaim(FRAME), HOST)
    use(made)
    made.do(made.host.reclaim(FRAME), HOST)
    assert made.hand.said(PageCleaned) == [
        PageCleaned(pfn_of(FRAME, 0), dirty=True),
        PageCleaned(pfn_of(FRAME, 1), dirty=True),
    ], "an spte that is writable may have been written"


def test_an_old_page_takes_nothing_from_the_new_one_of_its_frame() -> None:
    made = machine()
    use(made, write=True)
    reclaiming = made.hand.start(made.host.reclaim(FRAME), HOST)
    reclaiming.until(lambda op: "page flags" in str(op) and made.leaves() == {})
    reclaiming.until(lambda op: op.kind == "release")
    reclaiming.step()
    use(made, write=True)
    (ref,) = (SpteRef(*place) for place in made.leaves())
    made.hand.locked(made.vm.mmu.shadowing.clear_writable(ref))
    reclaiming.finish()
    assert flags(made).dirty == (pfn_of(FRAME, 1),)


def test_the_exchange_gives_what_was_there_in_the_end() -> None:
    made = machine()
    use(made)
    ((place, spte),) = made.leaves().items()
    shadow = made.vm.mmu.cache.pages[place[0]]
    made.hand[shadow[place[1]]] = spte & ~W
    found = made.hand.locked(shadow.exchange(place[1], spte, 0))
    assert found == spte & ~W
    assert made.hand[shadow.present] == ()


# --- each step bears weight ---


async def writes(cpu: Guest) -> None:
    await cpu.store(REGION, 2)


async def zaps(host: Host) -> None:
    await host.zap_table(LEAF_TABLE)


async def ages(host: Host) -> None:
    await host.age(FRAME)


async def zaps_and_swaps(host: Host) -> None:
    await host.zap_table(LEAF_TABLE)
    await host.reclaim(FRAME)


class TellsNothing(page_flags.SetSpte):
    async def track_bits(self, old: int, new: int) -> None:
        del old, new


def world(hosts: dict[str, Any], *mutants: type) -> World:
    return tiny(
        SPACES,
        writes,
        setups=(writes,),
        hosts=hosts,
        features=("page-flags",),
        overrides={"SetSpte": mutants} if mutants else None,
    )


@pytest.mark.parametrize(
    ("hosts", "code"),
    [
        ({"zap": zaps, "kswapd": ages}, "accessed/lost"),
        ({"kswapd": zaps_and_swaps}, "dirty/lost"),
    ],
)
def test_nothing_is_lost_but_without_that_step(hosts: dict[str, Any], code: str) -> None:
    assert exhausted(world(hosts)).states > 500
    assert codes(world(hosts, TellsNothing)) == (code,)
