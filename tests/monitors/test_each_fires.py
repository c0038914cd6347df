"""Each monitor fires on a component that breaks its rule, in full and incremental form alike."""

from __future__ import annotations

from typing import Any

import pytest

from vmm.bits import P, make_entry
from vmm.discovery import discover
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.monitor import Step, View
from vmm.engine.ops import wait_until
from vmm.engine.world import World
from vmm.hw import pcpu
from vmm.hw.events import Exchange, Invlpg, WalkRead
from vmm.hw.layout import REGION, page
from vmm.machine import MachineConfig, build_world
from vmm.mmu import fault, guest_walk, roots, shadowing, zap
from vmm.mmu.api import Root, ShadowPageFreed, ShadowPageMade
from vmm.mmu.fault import NO_PT_WRITE
from vmm.mmu.shadow_page import FIRST_PFN, SpteRef
from vmm.programs import Programs
from vmm.strategies.random import RandomPicker
from vmm.units import Gfn, Pfn
from vmm.vcpu import flush
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.vcpu import Vcpu

DATA, OTHER = REGION, REGION + 0x1000
SEEDS, SEEDS_AT_MOST = 10, 60


class ForgetsRmap(zap.Zap):
    """Drops sptes, but leaves their rmap entries."""

    async def drop_spte(self, page: Any, level: int, index: int) -> bool:
        await page.set_spte(index, 0)
        return True


class ForgetsParents(zap.Zap):
    """Drops links, but leaves them among the child's parents."""

    async def drop_spte(self, page: Any, level: int, index: int) -> bool:
        if level == 1:
            return await super().drop_spte(page, level, index)
        await page.set_spte(index, 0)
        return True


class LeavesEntries(zap.Zap):
    """Frees pages as they are."""

    async def unlink_children(self, page: Any, header: Any) -> None:
        del page, header


class FreesWithoutDelisting(zap.Zap):
    """Gives pages back, but leaves them in the active list."""

    async def zap_page(self, me: Any, page: Any) -> None:
        active = await self.mmu.cache.active
        await super().zap_page(me, page)
        await self.mmu.cache.active.set(active)


class LosesPages(zap.Zap):
    """Frees pages, but not into the pool."""

    async def zap_page(self, me: Any, page: Any) -> None:
        free = await self.mmu.cache.free
        await super().zap_page(me, page)
        await self.mmu.cache.free.set(free)


class CountsTwice(roots.Roots):
    """Counts a root once more than it is let go of."""

    async def load(self, vcpu: Any) -> Root:
        root = await super().load(vcpu)
        async with self.mmu.lock:
            await self.mmu.cache.pages[root.pages[0]].root_count.set(2)
        return root


class KeepsTheRoot(roots.Roots):
    """Changes the registers, but not what the vCPU runs on."""

    async def switch(self, vcpu: Any, written: Any) -> None:
        async with self.mmu.lock:
            await vcpu.registers.set(written.new, event=written)


class NeverProtects(shadowing.Shadowing):
    """Leaves W in the sptes of a new table."""

    async def clear_writable(self, ref: SpteRef) -> bool:
        del ref
        return False


class TrustsTheWalk(fault.PageFault):
    """Installs what the walk read, whatever has become of it."""

    async def gpte_unchanged(self, walk: Any, level: int) -> bool:
        del walk, level
        return True


class MarksByPlainStore(guest_walk.GuestWalker):
    """Sets A and D without looking whether the gpte is still what it was."""

    async def mark_used(self, gpa: Any, entry: int, marked: int, size: int) -> bool:
        await self.memory.store(gpa, marked, size, event=Exchange(gpa, entry, size))
        return True


class FlushesNobody(flush.Flush):
    """Believes that no TLB holds anything."""

    async def flush_remote(self, me: Any) -> None:
        del me


class KeepsPage(pcpu.Pcpu):
    """INVLPG leaves the TLB as it is."""

    async def invlpg(self, gva: Any) -> None:
        await self.tlb.read(event=Invlpg(self.number, gva))


class ForgetsIpis(flush.Flush):
    """Makes requests, and interrupts nobody."""

    async def needs_ipi(self, vcpu: Vcpu, *, was_clear: bool) -> bool:
        del vcpu, was_clear
        return False


class NeverAcknowledged(flush.Flush):
    """Waits for what cannot come: that all IPIs are on their way."""

    async def wait_for_acks(self, pcpus: tuple[pcpu.Pcpu, ...]) -> None:
        await wait_until(self.vcpus[0].requests, lambda requests: requests == -1)


async def remaps(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store_pte(DATA, frame=4, space="B")
    await cpu.store_pte(DATA, frame=5, space="B")
    await cpu.load(OTHER)


async def switches(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.mov_cr3("A")
    await cpu.load(DATA)


async def uses(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store(OTHER, 1)
    await cpu.load(DATA)


async def invalidates(cpu: Guest) -> None:
    for _ in range(8):
        await cpu.load(DATA)
        await cpu.invlpg(DATA)


async def zaps(host: Host) -> None:
    await host.zap_all()


async def zaps_a_middle_table(host: Host) -> None:
    await host.zap_table(0x12)


async def reclaims(host: Host) -> None:
    await wait_until(host.vm.vcpus[1].pcpu.tlb, bool)
    await host.reclaim(2)


async def writes_a_gpte(host: Host) -> None:
    gpte = host.vm.mmu.memory.word(host.vm.layout.gpte("B", DATA))
    for n in range(200):
        await gpte.set(page(2 + n % 2, fresh=True).entry())


async def peeks(host: Host) -> None:
    await host.vm.mmu.rmap.chains[Gfn(2)]


async def forgets_table_writes(host: Host) -> None:
    for _ in range(200):
        await host.vm.vcpus[0].last_pt_write.set(NO_PT_WRITE)


def world(overrides: dict[str, list[type]], host: Any = zaps, guest: Any = uses) -> World:
    config = MachineConfig(
        spaces={
            "A": {DATA: page(2), OTHER: page(3)},
            "B": {DATA: page(2, fresh=True), OTHER: page(3)},
        },
        starts=("A", "B"),
        features=("host-paging",) if host is reclaims else (),
    )
    programs = Programs(vcpus={0: remaps, 1: guest}, hosts={"host": host})
    monitors = [module.SPEC.build for module in discover("vmm.monitors").values()]
    return build_world("broken", config, programs, {}, overrides=overrides, monitors=monitors)


def found(made: World, seed: int, *, incremental: bool) -> list[str]:
    """The codes that a seed finds."""
    run = Run(made, RandomPicker(seed), incremental=incremental, step_budget=20_000)
    return [finding.code for finding in drive(run).findings]


def fires(made: World, code: str) -> bool:
    """Whether some seed finds that code, and all before it the same in both forms."""
    for seed in range(SEEDS_AT_MOST):
        full = found(made, seed, incremental=False)
        assert (code in full) == (code in found(made, seed, incremental=True))
        if code in full:
            return True
    return False


BROKEN: dict[str, dict[str, list[type]]] = {
    "audit/rmap-exact": {"Zap": [ForgetsRmap]},
    "audit/parent-links": {"Zap": [ForgetsParents]},
    "audit/free-page-clean": {"Zap": [LeavesEntries]},
    "audit/cache-lists": {"Zap": [FreesWithoutDelisting]},
    "audit/pool-exact": {"Zap": [LosesPages]},
    "audit/root-counts": {"Roots": [CountsTwice]},
    "audit/root-matches-cr3": {"Roots": [KeepsTheRoot]},
    "audit/write-protection": {"Shadowing": [NeverProtects]},
    "audit/spte-agrees": {"PageFault": [TrustsTheWalk]},
    "isolation/page-given-back": {"Flush": [FlushesNobody]},
    "update/lost": {"GuestWalker": [MarksByPlainStore]},
    "architecture/translation": {"Flush": [FlushesNobody], "Pcpu": [KeepsPage]},
    "deadlock/stuck": {"Flush": [NeverAcknowledged]},
    "request/lost": {"Flush": [ForgetsIpis]},
}


HOSTS = {
    "isolation/page-given-back": reclaims,
    "audit/parent-links": zaps_a_middle_table,
    "update/lost": writes_a_gpte,
}
"""What the host does, if zapping everything does not show it."""
GUESTS = {"architecture/translation": invalidates, "audit/root-matches-cr3": switches}
"""What vCPU 1 does, if plain use does not show it."""


@pytest.mark.parametrize("code", list(BROKEN))
def test_monitor_fires_in_both_forms(code: str) -> None:
    assert fires(world(BROKEN[code], HOSTS.get(code, zaps), GUESTS.get(code, uses)), code)


def test_nothing_fires_on_the_machine_as_it_is() -> None:
    made = world({})
    for seed in range(SEEDS):
        assert not found(made, seed, incremental=False)
        assert not found(made, seed, incremental=True)


def test_an_access_without_the_lock_is_found() -> None:
    assert fires(world({}, host=peeks), "lock/unguarded")


def test_a_plain_store_to_what_another_thread_uses_is_found() -> None:
    assert fires(world({}, host=forgets_table_writes), "race/plain-access")


def test_a_page_in_use_again_was_still_freed_under_the_walk() -> None:
    made = world({})
    monitor = next(m for m in made.monitors if m.name == "lifetime/freed-under-walk")
    (task, *_), (cell, *_) = made.tasks, made.cells
    step = Step(task, cell.read_op, make_entry(FIRST_PFN + 1, P), (), ())
    first, second = FIRST_PFN, Pfn(FIRST_PFN + 1)
    state: Any = monitor.initial()
    view = View(list[Any]().__getitem__)
    for event in (WalkRead(0, first, DATA, 2), ShadowPageFreed(1, Gfn(5))):
        state, found = monitor.on_event(state, event, step, view)
        assert not found
    assert ShadowPageMade not in monitor.events
    _, found = monitor.on_event(state, WalkRead(0, second, DATA, 1), step, view)
    assert [finding.code for finding in found] == ["lifetime/freed-under-walk"]
