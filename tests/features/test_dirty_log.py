"""The dirty log by hand: what is in it, and what reading it takes away."""

from __future__ import annotations

from tests.hand import Bench, bench
from tests.tiny import codes, tiny
from vmm.bits import W
from vmm.features import dirty_log
from vmm.hw.layout import REGION, page
from vmm.units import Gva
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.requests import TLB_FLUSH

DATA, OTHER = REGION, Gva(REGION + 0x1000)
SPACES = {"A": {int(DATA): page(2), int(OTHER): page(3, fresh=True)}}
TABLE = 0x13
HOST = 1


def machine() -> Bench:
    made = bench(SPACES, features=("dirty-log",))
    made.do(made.guest.load(OTHER))
    return made


def read(made: Bench) -> tuple[int, ...]:
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    return made.do(made.host.get_dirty_log(), HOST)


def test_what_was_only_read_is_clean() -> None:
    assert read(machine()) == ()


def test_a_page_is_told_once_for_each_round_of_writes() -> None:
    made = machine()
    made.do(made.guest.store(DATA, 1))
    made.do(made.guest.store(DATA, 2))
    assert read(made) == (2,)
    assert read(made) == ()
    made.do(made.guest.store(DATA, 3))
    assert read(made) == (2,)


def test_a_writable_mapping_counts_as_a_write() -> None:
    made = machine()
    made.do(made.guest.load(DATA))
    assert read(made) == (2,), "its gpte is dirty, so it is mapped writable at once"


def test_an_emulated_store_is_told() -> None:
    made = machine()
    made.do(made.guest.store_pte(DATA, frame=4))
    assert TABLE in read(made)


def test_reading_takes_write_access_away_and_flushes() -> None:
    made = machine()
    made.do(made.guest.store(DATA, 1))
    read(made)
    assert not any(spte & W for spte in made.leaves().values())
    assert made.hand[made.vcpu.requests] & TLB_FLUSH


# --- each step bears weight ---


async def stores(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


async def reads(thread: Host) -> None:
    await thread.get_dirty_log()


class NeverLogs(dirty_log.Memslots):
    async def mark_dirty(self, gfn: int) -> None:
        return


class NeverProtects(dirty_log.Host):
    async def write_protect(self, gfns: tuple[int, ...]) -> bool:
        return False


class NeverFlushes(dirty_log.Host):
    async def write_protect(self, gfns: tuple[int, ...]) -> bool:
        await super().write_protect(gfns)
        return False


def found(mutant: type) -> tuple[str, ...]:
    component = mutant.__mro__[1].__name__
    return codes(
        tiny(
            SPACES,
            stores,
            setups=() if mutant is NeverLogs else (stores,),
            hosts={"migrate": reads},
            features=("dirty-log",),
            overrides={component: [mutant]},
        )
    )


def test_without_one_step_a_write_is_lost() -> None:
    for mutant in (NeverLogs, NeverProtects, NeverFlushes):
        assert found(mutant) == ("dirty-log/write-lost",), mutant
