"""The architecture oracle alone: which bugs it sees, and what it lets pass."""

from __future__ import annotations

from typing import Any

import pytest

from tests import catalogue
from tests.tiny import codes, tiny
from vmm.discovery import discover
from vmm.engine.world import World
from vmm.hw import pcpu
from vmm.hw.events import Invlpg
from vmm.hw.layout import REGION, Page, page
from vmm.mmu import spte
from vmm.search import exhaustive
from vmm.vcpu import flush
from vmm.vcpu.guest import Guest

CODE = "architecture/translation"
DATA, OTHER = REGION, REGION + 0x1000
TABLE_B = 0x17
"""The leaf table of the second space."""
SPACES: dict[str, dict[int, Page]] = {"A": {DATA: page(2)}}
NAMED = [name for name, module in discover("vmm.bugs").items() if CODE in module.SPEC.caught_by]
QUICK = ("stale-gpte", "unsync-child-link")


class FlushesNobody(flush.Flush):
    """Leaves every TLB as it is."""

    async def flush_remote(self, me: Any) -> None:
        del me

    async def make_request(self, vcpu: Any, request: int, *, event: Any = None) -> bool:
        return await super().make_request(vcpu, 0, event=event)


class KeepsPage(pcpu.Pcpu):
    """INVLPG leaves the TLB as it is."""

    async def invlpg(self, gva: Any) -> None:
        await self.tlb.read(event=Invlpg(self.number, gva))


class KeepsUpperEntries(pcpu.Pcpu):
    """INVLPG leaves the structure caches as they are."""

    async def invlpg(self, gva: Any) -> None:
        if self.caches is None:
            await super().invlpg(gva)
            return
        kept = await self.caches
        await super().invlpg(gva)
        await self.caches.set(kept)


class IgnoresDirty(spte.SetSpte):
    """Maps a clean page writable."""

    async def install(self, *args: Any, **named: Any) -> bool:
        return await super().install(*args, **{**named, "dirty": True})


STALE: dict[str, list[type]] = {"Flush": [FlushesNobody], "Pcpu": [KeepsPage]}


def alone(world: World) -> World:
    """The same world, judged by this oracle only."""
    world.monitors[:] = [monitor for monitor in world.monitors if monitor.name == CODE]
    assert world.monitors
    return world


@pytest.mark.parametrize(
    "bug",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMED],
)
def test_it_sees_the_bugs_that_name_it_without_any_other(bug: str) -> None:
    shown = [loaded for loaded, name in catalogue.shows() if name == bug]
    found = [exhaustive.search(alone(catalogue.small(each, bug).world())) for each in shown]
    assert [CODE] in [[finding.code for finding in result.findings] for result in found]


async def remaps(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store_pte(DATA, frame=4, writable=False)
    await cpu.load(DATA)


async def invalidates(cpu: Guest) -> None:
    await remaps(cpu)
    await cpu.invlpg(DATA)
    await cpu.load(DATA)


async def invalidates_another(cpu: Guest) -> None:
    await remaps(cpu)
    await cpu.invlpg(DATA + 0x1000)
    await cpu.load(DATA)


async def loads_cr3(cpu: Guest) -> None:
    await remaps(cpu)
    await cpu.mov_cr3("A")
    await cpu.load(DATA)


async def faults(cpu: Guest) -> None:
    await remaps(cpu)
    if await cpu.store(DATA, 1) is not None:
        await cpu.load(DATA)


async def writes_after_a_load(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store(DATA, 1)


@pytest.mark.parametrize("program", [remaps, invalidates_another])
def test_a_processor_may_use_what_it_has_not_been_told_to_forget(program: Any) -> None:
    assert codes(alone(tiny(SPACES, program, overrides=STALE))) == ()


@pytest.mark.parametrize("program", [invalidates, loads_cr3, faults])
def test_it_may_not_use_what_it_was_told_to_forget(program: Any) -> None:
    assert codes(alone(tiny(SPACES, program))) == ()
    assert codes(alone(tiny(SPACES, program, overrides=STALE))) == (CODE,)


def test_a_write_must_have_set_dirty() -> None:
    fresh: dict[str, dict[int, Page]] = {"A": {DATA: page(2, fresh=True)}}
    assert codes(alone(tiny(fresh, writes_after_a_load))) == ()
    broken: dict[str, list[type]] = {"SetSpte": [IgnoresDirty]}
    assert codes(alone(tiny(fresh, writes_after_a_load, overrides=broken))) == (CODE,)


async def relinks(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store_pte(OTHER, frame=4)  # KVM maps it at once: no access puts it into the TLB
    await cpu.store_pte(DATA, frame=TABLE_B, level=2)
    await cpu.invlpg(OTHER)
    await cpu.load(OTHER)


@pytest.mark.parametrize("structure_caches", [False, True])
def test_a_stale_upper_entry_is_of_use_until_any_invlpg(structure_caches: bool) -> None:
    """What a TLB without structure caches cannot show."""
    spaces: dict[str, dict[int, Page]] = {
        "A": {DATA: page(2), OTHER: page(2)},
        "B": {OTHER: page(3)},
    }
    broken: dict[str, list[type]] = {"Flush": [FlushesNobody], "Pcpu": [KeepsUpperEntries]}
    for overrides, found in (({}, ()), (broken, (CODE,) if structure_caches else ())):
        world = tiny(spaces, relinks, overrides=overrides, structure_caches=structure_caches)
        assert codes(alone(world)) == found
