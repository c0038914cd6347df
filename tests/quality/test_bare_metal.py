"""A guest on the shadow MMU sees what it would see without a hypervisor."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.quality.bare_metal import BareMetal, InTurns, world_of
from tests.quality.random_guests import LARGE, TABLES, Act, plan, random_plan
from vmm.bits import PS, A, D, P, U, W, make_entry
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.trace import Ending, Outcome
from vmm.hw.layout import REGION, WINDOW
from vmm.mmu import guest_walk, pte_write
from vmm.units import ENTRY_BYTES, PAGE_BYTES

MACHINES: dict[str, dict[str, Any]] = {
    "two vCPUs": {"vcpus": 2},
    "one vCPU, untagged TLB": {"vcpus": 1, "tlb_tagged": False},
    "a pool too small": {"vcpus": 2, "shadow_pages": 20},
    "zaps by the host": {"vcpus": 2, "host": "zap all,zap table"},
    "pages reclaimed": {"vcpus": 2, "host": "reclaim", "features": ("host-paging",)},
    "two-phase zaps": {"vcpus": 2, "host": "zap all,zap table", "features": ("two-phase-zap",)},
    "three vCPUs, no cache": {"vcpus": 3, "features": ("no-cache",), "shadow_pages": 80},
}

ERAS: dict[str, dict[str, Any]] = {
    "2.6.28": {"vcpus": 2, "host": "reclaim"},
    "3.6": {"vcpus": 2, "host": "zap all,zap table"},
    "5.15": {"vcpus": 2, "host": "zap all,reclaim"},
    "2026": {"vcpus": 2, "host": "zap all,zap table,reclaim"},
}
"""Whatever features an era has, they go together."""


def run(seed: int, count: int, *, vcpus: int, host: str = "", **config: Any) -> str:
    """What is wrong with a guest; empty if nothing is."""
    made = random_plan(seed, count, vcpus=vcpus, host=host)
    world = world_of(made, **config)
    outcome = drive(Run(world, InTurns(world, made.acts, Random(seed)), step_budget=20_000))
    (reference,) = [one for one in world.monitors if isinstance(one, BareMetal)]
    if outcome.ending is Ending.QUIESCENT:
        return ""
    loops = [found.code for found in outcome.findings] == ["guest/fault-loop"]
    endless = (loops or outcome.ending is Ending.STEP_BUDGET) and reference.is_endless()
    return "" if endless else f"seed {seed}: {outcome}"


@pytest.mark.parametrize("machine", MACHINES)
def test_guest_sees_bare_metal(machine: str) -> None:
    for seed in range(3):
        assert not run(seed, 40, **MACHINES[machine])


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_many_guests_see_bare_metal(machine: str) -> None:
    for seed in range(1000, 2000):
        assert not run(seed, 60, **MACHINES[machine])


@pytest.mark.parametrize("era", ERAS)
def test_guests_of_later_eras_see_bare_metal(era: str) -> None:
    for seed in range(2):
        assert not run(seed, 20, era=era, **ERAS[era])


@pytest.mark.slow
@pytest.mark.parametrize("era", ERAS)
def test_many_guests_of_later_eras_see_bare_metal(era: str) -> None:
    for seed in range(1000, 1150):
        assert not run(seed, 60, era=era, **ERAS[era])


# --- the reference is no rubber stamp ---


def in_order(*acts: Act, **config: Any) -> Outcome:
    made = plan(acts)
    world = world_of(made, **config)
    return drive(Run(world, InTurns(world, acts, Random(0))))


def gpte_store(table: int, index: int, entry: int) -> Act:
    return Act(0, "store", WINDOW + table * PAGE_BYTES + index * ENTRY_BYTES, entry)


def large_page(flags: int) -> Act:
    """A large page at REGION + LARGE, behind the first space's level-2 table."""
    return gpte_store(TABLES[2], 3, make_entry(0x200, P | W | U | A | PS | flags))


FIRST, SECOND = REGION + LARGE, REGION + LARGE + PAGE_BYTES
CLEANED = (
    large_page(D),
    Act(0, "store", FIRST, 1),
    Act(0, "store", SECOND, 2),
    large_page(0),
    Act(0, "load", FIRST),
    Act(0, "store", SECOND, 3),
)


def test_write_to_a_large_page_that_was_cleaned_sets_dirty() -> None:
    """Its direct page holds writable sptes from before, which the clean page must not find."""
    assert in_order(*CLEANED).ending is Ending.QUIESCENT


def test_reference_sees_a_lost_dirty_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_walk.GuestWalk, "direct_access", lambda walk: walk.access)
    (found, *_) = in_order(*CLEANED).findings
    assert found.code in ("bare-metal/differs", "audit/spte-agrees")


def test_user_store_to_the_table_that_maps_it_ends() -> None:
    """To take it for "no page table any more" is no use: the next fault shadows it again."""
    own = make_entry(TABLES[3], P | W | U | A | D)
    store = Act(0, "store", REGION + PAGE_BYTES + 8 * ENTRY_BYTES, 7, user=True)
    assert in_order(gpte_store(TABLES[3], 1, own), store).ending is Ending.QUIESCENT


def test_reference_sees_a_stale_spte(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep(*_: object) -> None:
        return

    moved = make_entry(3, P | W | U | A | D)
    acts = (Act(0, "load", REGION), gpte_store(TABLES[3], 0, moved), Act(0, "load", REGION))
    assert in_order(*acts).ending is Ending.QUIESCENT
    monkeypatch.setattr("vmm.mmu.pte_write.PteWrite.update_spte", keep)
    assert in_order(*acts).findings


def test_reference_sees_a_missing_dirty_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pte_write, "D", A)  # every page counts as dirty
    clean = make_entry(3, P | W | U | A)
    acts = (
        gpte_store(TABLES[3], 0, clean),
        Act(0, "load", REGION),
        Act(0, "store", REGION, 5),
    )
    assert in_order(*acts).findings


def test_same_cr3_again_drops_old_translations_without_the_cache() -> None:
    moved = make_entry(3, P | W | U | A | D)
    acts = (
        Act(0, "load", REGION),
        gpte_store(TABLES[3], 0, moved),
        Act(0, "mov cr3", value=TABLES[0] << 12),
        Act(0, "load", REGION),
    )
    assert in_order(*acts, features=("no-cache",)).ending is Ending.QUIESCENT
