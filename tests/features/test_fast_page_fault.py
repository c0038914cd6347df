"""The fast page fault by hand: whom it serves, what it leaves to the lock, and what it logs."""

from __future__ import annotations

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.bits import P, W
from vmm.engine.world import World
from vmm.features import fast_page_fault
from vmm.features.dirty_log import slots_of
from vmm.features.fast_page_fault import MMU_WRITEABLE
from vmm.features.lockless_walk import LocklessLeaf
from vmm.hw.access import STORE
from vmm.hw.layout import REGION, page
from vmm.mmu.api import FaultResult
from vmm.units import Gfn, Gva
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.vcpu import Vcpu

DATA, FRAME = Gva(0x5000), 5
HOST = 1


def machine(mode: str = "real") -> Bench:
    made = bench(
        {"A": {int(REGION): page(FRAME)} if mode != "real" else {}},
        space_modes={"A": mode},
        features=("fast-page-fault",),
    )
    made.do(made.guest.store(DATA if mode == "real" else REGION, 1))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    return made


def fault(made: Bench, gva: Gva) -> bool:
    """Whether a write fault took mmu_lock."""
    before = len(made.hand.taken)
    result = made.do(made.vm.mmu.fault.page_fault(made.vcpu, gva, STORE))
    assert result is FaultResult.RESUME
    return any(op.kind == "acquire" for op in made.hand.taken[before:])


def spte(made: Bench) -> int:
    (found,) = made.leaves().values()
    return found


def test_what_the_log_protected_is_fixed_without_the_lock_and_logged() -> None:
    made = machine()
    assert made.do(made.host.get_dirty_log(), HOST) == (FRAME,)
    assert spte(made) & (W | MMU_WRITEABLE) == MMU_WRITEABLE
    assert not fault(made, DATA)
    assert spte(made) & W
    assert made.hand[slots_of(made.vm.mmu).dirty] == (FRAME,)


def test_a_protected_table_is_left_to_the_lock() -> None:
    made = machine()
    made.hand.locked(made.vm.mmu.shadowing.write_protect(made.vcpu, Gfn(FRAME)))
    assert not spte(made) & (W | MMU_WRITEABLE)
    assert fault(made, DATA)


def test_a_vcpu_that_pages_takes_the_lock() -> None:
    made = machine("4-level")
    made.do(made.host.get_dirty_log(), HOST)
    assert fault(made, REGION)
    assert spte(made) & W


def test_the_holder_of_the_lock_sees_what_it_replaces() -> None:
    made = machine()
    made.do(made.host.get_dirty_log(), HOST)
    ((number, index),) = made.leaves()
    shadow = made.vm.mmu.cache.pages[number]
    read = made.hand[shadow[index]]
    exchange = made.hand.start(shadow.exchange(index, read, read & ~MMU_WRITEABLE))
    made.hand[shadow[index]] = read | W
    assert exchange.finish() == read | W
    assert spte(made) == read & ~MMU_WRITEABLE


# --- each step bears weight ---


async def stores(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


async def reads(thread: Host) -> None:
    await thread.get_dirty_log()


class NeverLogs(fast_page_fault.PageFault):
    async def make_writable(self, vcpu: Vcpu, leaf: LocklessLeaf, gva: Gva) -> bool:
        del gva
        cell = self.mmu.cache.pages[leaf.page][leaf.index]
        return await cell.cas(leaf.spte, leaf.spte | W)


class LogsFirst(fast_page_fault.PageFault):
    async def make_writable(self, vcpu: Vcpu, leaf: LocklessLeaf, gva: Gva) -> bool:
        del gva
        await slots_of(self.mmu).mark_dirty(FRAME)
        cell = self.mmu.cache.pages[leaf.page][leaf.index]
        return await cell.cas(leaf.spte, leaf.spte | W)


class PlainStore(fast_page_fault.PageFault):
    async def make_writable(self, vcpu: Vcpu, leaf: LocklessLeaf, gva: Gva) -> bool:
        del vcpu, gva
        await self.mmu.cache.pages[leaf.page][leaf.index].set(leaf.spte | P | W)
        return True


def _world(*mutants: type) -> World:
    return tiny(
        {"A": {}},
        stores,
        setups=(stores,),
        hosts={"migrate": reads, "again": reads},
        space_modes={"A": "real"},
        features=("fast-page-fault",),
        overrides={"PageFault": mutants} if mutants else None,
    )


def test_no_write_is_missing_from_the_log() -> None:
    exhausted(_world())


def test_without_one_step_a_write_is_lost() -> None:
    assert codes(_world(NeverLogs)) == ("dirty-log/write-lost",)
    assert codes(_world(LogsFirst)) == ("dirty-log/write-lost",)


def test_only_a_compare_and_swap_may_do_without_the_lock() -> None:
    assert codes(_world(PlainStore)) == ("lock/unguarded",)
