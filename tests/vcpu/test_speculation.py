"""Speculative fills: both forms find the same, in worlds so small that both can be searched."""

from __future__ import annotations

from typing import Any

import pytest

from tests import catalogue
from tests.tiny import codes, exhausted, tiny
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.hw.layout import REGION, page
from vmm.hw.speculation import Lost, MayPcpu, Past, past_entries, since_last
from vmm.mmu.api import VcpuState
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import LoadedScenario
from vmm.search.exhaustive import search
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
