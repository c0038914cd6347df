"""Speculative fills: both forms find the same, in worlds so small that both can be searched."""

from __future__ import annotations

from typing import Any

import pytest

from tests import catalogue
from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.bits import RESERVED, P, U, W
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.hw.access import LOAD
from vmm.hw.layout import REGION, page
from vmm.hw.speculation import Ahead, AheadPcpu, Lost, MayPcpu, Past, past_entries, since_last
from vmm.mmu.api import VcpuState
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import LoadedScenario
from vmm.search.exhaustive import search
from vmm.units import Pfn
from vmm.vcpu import flush
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host

DATA, OTHER = REGION, REGION + 0x1000
FRAME = 2
LEAF_TABLE = 0x13
SPACES = {"A": {int(DATA): page(FRAME)}}
FORMS = ("may", "tasks")
MACHINES = [loaded for loaded in catalogue.searchable() if loaded.scenario.machine is not None]
GIVEN_BACK = "isolation/page-given-back"


class KicksOnly(flush.Flush):
    """Everybody leaves the guest, and nobody flushes: what was cached before stays."""

    async def flush_remote(self, me: VcpuState | None) -> None:
        await self.ask_all(me, 0)


async def maps_and_forgets(cpu: Guest) -> None:
    """The spte is there, and no TLB entry."""
    await cpu.load(DATA)
    await cpu.mov_cr3("A")


async def enters_then_loads(cpu: Guest) -> None:
    await cpu.invlpg(OTHER)
    await cpu.load(DATA)


async def loads(cpu: Guest) -> None:
    await cpu.load(DATA)


async def reclaims(host: Host) -> None:
    await host.reclaim(FRAME)


async def zaps(host: Host) -> None:
    await host.zap_table(LEAF_TABLE)


def world(form: str, program: Any, host: Any, **overrides: list[type]) -> World:
    return tiny(
        SPACES,
        program,
        setups=[maps_and_forgets],
        hosts={"host": host},
        features=("host-paging",),
        speculative_fills=form,
        overrides=overrides,
    )


def found(made: World, max_states: int | None = None) -> tuple[str, ...]:
    result = search(made, max_states=max_states)
    return tuple([finding.code for finding in result.findings])


def test_without_them_a_page_that_no_access_needed_is_not_cached() -> None:
    assert found(world("none", enters_then_loads, reclaims, Flush=[KicksOnly])) == ()


@pytest.mark.parametrize("host", [reclaims, zaps])
@pytest.mark.parametrize("form", FORMS)
def test_both_forms_find_a_flush_that_is_missing(form: str, host: Any) -> None:
    assert found(world(form, enters_then_loads, host, Flush=[KicksOnly])) == (GIVEN_BACK,)


@pytest.mark.parametrize("host", [reclaims, zaps])
@pytest.mark.parametrize("form", FORMS)
def test_both_forms_find_nothing_where_nothing_is_wrong(form: str, host: Any) -> None:
    result = search(world(form, loads, host))
    assert result.complete
    assert not result.findings


class FaultsAgain(MayPcpu):
    """A page fault drops nothing."""

    async def forget_lost(self) -> None:
        await self.lost


async def widens(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store_pte(DATA, frame=FRAME)
    await cpu.store(DATA, 1)


def test_an_old_entry_that_permits_less_faults_once() -> None:
    """Else a processor could fault for ever on a page that memory lets it write."""
    spaces = {"A": {int(DATA): page(FRAME, writable=False)}}
    exhausted(tiny(spaces, widens, speculative_fills="may"))
    again = tiny(spaces, widens, speculative_fills="may", overrides={"Pcpu": [FaultsAgain]})
    assert codes(again) == ("livelock/fair",)


def test_what_may_be_taken_is_no_older_than_what_led_to_it() -> None:
    lost = (Lost(1, 0, 0x2001), Lost(2, 0, 0x3001), Lost(1, 0, 0), Lost(1, 0, 0x4001))
    assert past_entries(lost, 1, 0, 0) == (Past(0x2001, 0), Past(0x4001, 3))
    assert past_entries(lost, 2, 0, 1) == (Past(0x3001, 1),)
    assert past_entries(lost, 2, 0, 2) == ()
    assert (since_last(lost, 1, 0, 0), since_last(lost, 3, 0, 2)) == (4, 2)


def tracked(form: str) -> tuple[Bench, Pfn]:
    """A machine whose host has aged the page, so that a reserved bit is set; and where walks begin.

    Nothing of it is cached.
    """
    made = bench(SPACES, features=("access-tracking",), speculative_fills=form)
    made.do(made.guest.load(DATA))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    assert made.do(made.host.age(FRAME), 1)
    made.do(made.vcpu.pcpu.flush())
    made.do(made.vm.loop.to_boundary(made.vcpu, DATA))
    return made, made.vm.mmu.cache.pages[made.hand[made.vcpu.root].page(DATA)].pfn


def test_a_walk_that_could_be_an_old_one_ends_at_a_reserved_bit_too() -> None:
    made, root = tracked("may")
    pcpu = made.vcpu.pcpu
    assert isinstance(pcpu, MayPcpu)
    elsewhere = (Lost(root, 511, P),)
    made.hand[pcpu.lost] = elsewhere
    controls = made.hand[made.vcpu.registers].controls
    assert made.do(pcpu.walk(4, root, DATA, LOAD, controls)) is None
    assert made.hand[pcpu.tlb] == ()
    assert past_entries((Lost(1, 0, P | RESERVED),), 1, 0, 0) == ()


def test_a_walk_ahead_caches_nothing_that_has_a_reserved_bit() -> None:
    made, root = tracked("tasks")
    pcpu = made.vcpu.pcpu
    assert isinstance(pcpu, AheadPcpu)
    made.hand[pcpu.ahead] = Ahead(0, W | U)
    made.do(pcpu.walk_ahead(4, root, DATA, 0))
    assert made.hand[pcpu.tlb] == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"speculative_fills": "some"}, "choose none, may, tasks"),
        ({"speculative_fills": "may", "memory_model": "tso"}, "store buffers"),
        (
            {"speculative_fills": "tasks", "features": ("vcpu-migration",), "pcpus": 2},
            "vCPUs that move",
        ),
    ],
)
def test_what_is_not_modeled_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tiny(SPACES, loads, **config)


@pytest.mark.slow
@pytest.mark.parametrize("loaded", MACHINES, ids=catalogue.pair_id)
def test_no_scenario_rests_on_what_is_not_cached(loaded: LoadedScenario) -> None:
    """Also what no access needed is flushed in time."""
    params = {**loaded.scenario.small, "speculative_fills": "may", "memory_model": "sc"}
    assert found(prepare(loaded, params=params).world(), max_states=60_000) == ()
