"""The mmu notifier by hand: what a fault asks, and what the host gives back when."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.bits import frame_of
from vmm.engine.ops import Acquire
from vmm.engine.world import World
from vmm.features import notifier
from vmm.hw.access import LOAD
from vmm.hw.events import GiveBack
from vmm.hw.layout import REGION, page
from vmm.mmu.memslots import HostPage, pfn_of
from vmm.units import Gfn
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host

FRAME = 2
SPACES = {"A": {int(REGION): page(FRAME)}}
HOST = 1
"""The number in whose name host threads act."""


def machine() -> Bench:
    made = bench(SPACES, features=("notifier",))
    made.do(made.vm.mmu.roots.load(made.vcpu))
    return made


def slots(made: Bench) -> notifier.Memslots:
    assert isinstance(made.vm.mmu.slots, notifier.Memslots)
    return made.vm.mmu.slots


def fault(made: Bench) -> Any:
    """A fault that has resolved its page and waits for mmu_lock."""
    doing = made.hand.start(made.vm.mmu.fault.page_fault(made.vcpu, REGION, LOAD))
    doing.until(lambda op: isinstance(op, Acquire))
    return doing


def host(made: Bench) -> notifier.Host:
    assert isinstance(made.host, notifier.Host)
    return made.host


def test_a_page_is_given_back_and_the_next_fault_gets_another() -> None:
    made = machine()
    fault(made).finish()
    assert made.do(made.host.reclaim(FRAME), HOST) is True
    assert made.leaves() == {}
    assert [event.pfn for event in made.hand.said(GiveBack)] == [pfn_of(FRAME, 0)]
    assert made.do(made.host.reclaim(FRAME), HOST) is False, "it is gone already"
    fault(made).finish()
    (spte,) = made.leaves().values()
    assert frame_of(spte) == pfn_of(FRAME, 1)


@pytest.mark.parametrize("how", ["page", "range"])
def test_what_was_resolved_before_is_not_installed(how: str) -> None:
    made = machine()
    doing = fault(made)
    made.do(made.host.reclaim(9) if how == "page" else made.host.unmap(8, 2), HOST)
    doing.finish()
    assert made.leaves() == {}, "any invalidation counts, whatever its frames"


def test_ranges_nest() -> None:
    made = machine()
    for _ in range(2):
        made.do(host(made).invalidate_start(8, 1), HOST)
    made.do(host(made).invalidate_end(8, 1), HOST)
    fault(made).finish()
    assert made.leaves() == {}, "one of them is still open"
    made.do(host(made).invalidate_end(8, 1), HOST)
    assert made.hand[slots(made).count] == 0
    fault(made).finish()
    assert len(made.leaves()) == 1


def test_ageing_takes_the_mapping_away_once() -> None:
    made = machine()
    fault(made).finish()
    assert made.do(made.host.age(FRAME), HOST) is True
    assert made.do(made.host.age(FRAME), HOST) is False
    assert not made.hand.said(GiveBack)
    fault(made).finish()
    assert made.do(made.host.age(FRAME), HOST) is True


# --- each step bears weight ---


async def uses(cpu: Guest) -> None:
    await cpu.load(REGION)


async def unmaps(thread: Host) -> None:
    await thread.unmap(FRAME)


async def reclaims(thread: Host) -> None:
    await thread.reclaim(FRAME)


def world(program: Any, *mutants: type, component: str = "Memslots") -> World:
    return tiny(
        SPACES,
        uses,
        hosts={"host": program},
        features=("notifier",),
        overrides={component: mutants} if mutants else None,
        goals=("page given back", "host page changed under a fault"),
    )


class SequenceLate(notifier.Memslots):
    """Reads the sequence after the page."""

    async def pin(self, gfn: Gfn) -> HostPage:
        found = await super().pin(gfn)
        return found._replace(sequence=await self.sequence)


class NoSequence(notifier.Memslots):
    async def still_holds(self, page: HostPage) -> bool:
        return await self.count == 0


class FreedBefore(notifier.Host):
    """Frees the page before its sptes are gone."""

    async def reclaim(self, gfn: int) -> bool:
        taken = await self.free(await self._slots.clear_entry(Gfn(gfn)))
        async with self.vm.mmu.lock:
            await self._slots.sequence.update(lambda n: (n + 1, None))
            await self.vm.mmu.zap.zap_leaves(None, Gfn(gfn))
        return taken


@pytest.mark.parametrize("program", [unmaps, reclaims])
def test_nothing_is_reached_after_it_was_given_back(program: Any) -> None:
    assert exhausted(world(program)).states > 500


@pytest.mark.parametrize(
    ("program", "mutant"),
    [(reclaims, SequenceLate), (unmaps, SequenceLate), (reclaims, NoSequence), (unmaps, NoSequence),
     (reclaims, FreedBefore)],
)  # fmt: skip
def test_without_one_step_the_guest_reaches_a_page_that_is_gone(program: Any, mutant: type) -> None:
    component = mutant.__mro__[1].__name__
    found = codes(world(program, mutant, component=component))
    assert found == ("isolation/page-given-back",)
