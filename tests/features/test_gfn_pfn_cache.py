"""The gfn-to-pfn cache by hand, and that each step bears weight."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.features import gfn_pfn_cache
from vmm.features.gfn_pfn_cache import CachedPage, CachedPageUsed
from vmm.hw.layout import REGION, page
from vmm.mmu.memslots import pfn_of
from vmm.units import Gfn
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host

FRAME = 2
SPACES = {"A": {int(REGION): page(FRAME)}}
HOST = 1


def kept(made: Bench) -> CachedPage:
    assert isinstance(made.vm.mmu.slots, gfn_pfn_cache.Memslots)
    found: CachedPage = made.hand[made.vm.mmu.slots.gpc]
    return found


def test_the_page_is_kept_until_it_is_taken() -> None:
    made = bench(SPACES, features=("gfn-pfn-cache",))
    made.do(made.guest.send_event(FRAME, 7))
    assert made.word(FRAME << 12) == 7
    assert kept(made) == CachedPage(FRAME, FRAME, valid=True)
    made.do(made.host.unmap(9), HOST)
    assert kept(made).valid
    made.do(made.host.reclaim(FRAME), HOST)
    assert not kept(made).valid
    made.do(made.guest.send_event(FRAME, 8))
    new = pfn_of(FRAME, 1)
    assert kept(made) == CachedPage(FRAME, new, valid=True)
    assert made.hand.said(CachedPageUsed)[1] == CachedPageUsed(Gfn(FRAME), new)


def test_it_takes_the_feature() -> None:
    made = bench(SPACES)
    for asks in (made.guest.send_event(FRAME, 1), made.guest.pre_fault(REGION)):
        with pytest.raises(UsageError, match="the guest does what needs the feature"):
            made.do(asks)


async def sends(cpu: Guest) -> None:
    await cpu.send_event(FRAME, 1)
    await cpu.send_event(FRAME, 2)


async def unmaps(host: Host) -> None:
    await host.unmap(FRAME)


class Unchecked(gfn_pfn_cache.Memslots):
    async def must_retry(self, page: Any) -> bool:
        del page
        return False


class NoSequence(gfn_pfn_cache.Memslots):
    async def must_retry(self, page: Any) -> bool:
        del page
        return await self.active != 0


class NotTold(gfn_pfn_cache.Memslots):
    async def invalidate_cached(self, first: int, frames: int) -> None:
        del first, frames


def world(*mutants: type) -> World:
    return tiny(
        SPACES,
        sends,
        hosts={"unmap": unmaps},
        features=("gfn-pfn-cache",),
        overrides={"Memslots": mutants} if mutants else None,
        goals=("cached page resolved again",),
    )


def test_nothing_is_stored_to_a_page_that_is_gone() -> None:
    assert exhausted(world()).states > 200


@pytest.mark.parametrize("mutant", [Unchecked, NoSequence, NotTold])
def test_without_one_step_something_is(mutant: type) -> None:
    assert codes(world(mutant)) == ("isolation/page-given-back",)
