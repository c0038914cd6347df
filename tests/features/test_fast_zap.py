"""Generations: what is obsolete is found by nobody, run on by nobody, and gone in the end."""

from __future__ import annotations

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.engine.world import World
from vmm.features import fast_zap
from vmm.hw.layout import REGION, page
from vmm.hw.pcpu import Irq
from vmm.mmu.api import ShadowPageFreed
from vmm.mmu.role import root_role
from vmm.units import Gfn
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.requests import MMU_RELOAD

SPACES = {"A": {int(REGION): page(2)}}
ROOT_GFN = Gfn(0x10)
FEATURES = ("fast-zap",)


def running() -> Bench:
    made = bench(SPACES, vcpus=2, features=FEATURES)
    made.do(made.guest.load(REGION))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    return made


def test_obsolete_pages_are_found_by_no_lookup_and_protect_nothing() -> None:
    made = running()
    cache = fast_zap.cache_of(made.vm.mmu)
    role = root_role(made.hand[made.vcpu.registers].controls)
    assert made.hand.locked(cache.find(ROOT_GFN, role)) is not None
    assert made.hand.locked(cache.is_shadowed(ROOT_GFN))
    made.hand.locked(cache.new_generation())
    assert made.hand.locked(cache.find(ROOT_GFN, role)) is None
    assert not made.hand.locked(cache.is_shadowed(ROOT_GFN))
    assert made.hand.locked(cache.obsolete()) == made.hand[cache.active]


def test_only_the_root_in_use_outlives_the_zap_and_its_user_frees_it() -> None:
    made = running()
    cache = made.vm.mmu.cache
    (root,) = made.pages(ROOT_GFN)
    made.do(made.host.zap_all(), 2)
    assert made.hand[cache.active] == (root,)
    assert made.hand[made.vcpu.requests] & MMU_RELOAD
    made.do(made.guest.load(REGION))
    assert made.hand.said(ShadowPageFreed)[-1].page == root
    assert len(made.hand[cache.active]) == 4


def test_what_is_built_during_a_lock_break_stays() -> None:
    made = running()
    cache = made.vm.mmu.cache
    doing = made.hand.start(made.host.zap_all(), 2)
    doing.until(lambda op: op.kind == "release")
    doing.step()
    made.do(made.guest.load(REGION))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    assert made.hand[made.vcpu.pcpu.irq] is not Irq.GUEST
    new = made.hand[made.vcpu.root].pages[0]
    doing.finish()
    assert len(made.hand[cache.active]) == 4
    assert new in made.hand[cache.active]


# --- the steps that bear weight ---


async def faults(cpu: Guest) -> None:
    await cpu.load(REGION)


async def zaps(host: Host) -> None:
    await host.zap_all()


def world(*mutants: type) -> World:
    return tiny(
        SPACES,
        faults,
        setups=(faults,),
        hosts={"alias": zaps},
        features=FEATURES,
        overrides={cls.__mro__[1].__name__: (cls,) for cls in mutants},
        goals=("lock released between batches", "root in use zapped"),
    )


class NoReload(fast_zap.Zap):
    async def zap_all(self, me: object) -> None:
        await fast_zap.cache_of(self.mmu).new_generation()
        await self.zap_obsolete(None)


def test_zapping_all_is_clean() -> None:
    assert exhausted(world()).states > 1_000


def test_without_the_reload_a_guest_runs_on_obsolete_pages() -> None:
    assert codes(world(NoReload)) == ("lifetime/invalid-page-walked",)
