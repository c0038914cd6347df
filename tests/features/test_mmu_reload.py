"""Invalid roots, and the last look at the requests before the guest runs."""

from __future__ import annotations

import pytest

from tests.hand import Bench, bench
from tests.tiny import codes, exhausted, tiny
from vmm.engine.world import World
from vmm.features import mmu_reload, vcpu_mode
from vmm.hw.layout import REGION, page
from vmm.hw.pcpu import Irq
from vmm.mmu.api import NO_ROOT
from vmm.units import Gfn
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.requests import MMU_RELOAD
from vmm.vcpu.vcpu import Mode, Vcpu

SPACES = {"A": {int(REGION): page(2)}}
ROOT_GFN = Gfn(0x10)
FEATURES = ("mmu-reload", "vcpu-mode")


def running(*features: str) -> Bench:
    made = bench(SPACES, vcpus=2, features=features)
    for guest in made.guests:
        made.do(guest.load(REGION), guest.number)
        made.do(made.vm.loop.leave(guest.vcpu, "test"))
    return made


@pytest.mark.parametrize("feature", [*FEATURES, "two-phase-zap"])
def test_a_zapped_root_lives_until_its_last_user_reloads(feature: str) -> None:
    made = running(feature)
    cache = made.vm.mmu.cache
    (old,) = made.pages(ROOT_GFN)
    made.do(made.host.zap_table(ROOT_GFN), 2)
    assert made.hand[cache.pages[old].header].role.invalid
    assert not any(role.has_gptes for role, _ in made.hand[cache.buckets[ROOT_GFN]])
    assert [made.hand[vcpu.requests] & MMU_RELOAD for vcpu in made.vm.vcpus] == [MMU_RELOAD] * 2
    made.do(made.guest.load(REGION))
    made.do(made.vm.loop.leave(made.vcpu, "test"))
    assert made.hand[made.vcpu.root] not in (old, NO_ROOT)
    assert made.hand[cache.pages[old].root_count] == 1
    made.do(made.guests[1].load(REGION), 1)
    assert made.hand[cache.pages[old].header] is None
    assert old in made.hand[cache.free]
    assert made.hand[made.vm.vcpus[1].root] == made.hand[made.vcpu.root]


def test_an_invalid_root_asks_only_once() -> None:
    made = running("mmu-reload")
    (old,) = made.pages(ROOT_GFN)
    made.do(made.host.zap_table(ROOT_GFN), 2)
    for vcpu in made.vm.vcpus:
        made.hand[vcpu.requests] = 0
    made.hand.locked(made.vm.mmu.zap.zap_page(None, made.vm.mmu.cache.pages[old]))
    assert not any(made.hand[vcpu.requests] & MMU_RELOAD for vcpu in made.vm.vcpus)


@pytest.mark.parametrize("feature", FEATURES)
def test_a_request_cancels_the_entry(feature: str) -> None:
    made = running(feature)
    vcpu = made.vcpu
    doing = made.hand.start(made.vm.loop.enter(vcpu))
    while made.hand[vcpu.mode] is not Mode.IN_GUEST_MODE:
        doing.step()
    made.hand[vcpu.requests] = MMU_RELOAD
    while made.hand[vcpu.mode] is not Mode.OUTSIDE_GUEST_MODE:
        doing.step()
    assert made.hand[vcpu.pcpu.irq] is Irq.OFF
    doing.finish()
    assert (made.hand[vcpu.pcpu.irq], made.hand[vcpu.requests]) == (Irq.GUEST, 0)


# --- the handshake, exhausted: each of its steps bears weight ---


async def uses(cpu: Guest) -> None:
    await cpu.load(REGION)


async def takes(host: Host) -> None:
    await host.reclaim(2)


def world(feature: str, component: str = "", *mutants: type) -> World:
    return tiny(
        SPACES,
        uses,
        setups=(uses,),
        hosts={"reclaim": takes},
        features=("host-paging", feature),
        overrides={component: mutants} if mutants else None,
        goals=("page given back",),
    )


@pytest.mark.parametrize("feature", FEATURES)
def test_no_request_is_late(feature: str) -> None:
    assert exhausted(world(feature)).states > 500


class NoSecondLook(mmu_reload.RunLoop):
    async def may_enter(self, vcpu: Vcpu) -> bool:
        return True


class OnlyTheGuest(vcpu_mode.Flush):
    """Kicks instead of asking: who is exiting, or about to enter, is not waited for."""

    async def needs_ipi(self, vcpu: Vcpu, *, was_clear: bool) -> bool:
        return await vcpu.pcpu.irq is Irq.GUEST


class ModeFirst(vcpu_mode.RunLoop):
    """Looks at the requests before the mode is published."""

    async def enter(self, vcpu: Vcpu) -> None:
        while True:
            await self.serve_reload(vcpu)
            await self.load_root(vcpu)
            await self.serve_requests(vcpu)
            await vcpu.pcpu.interrupts_off()
            clear = await self.may_enter(vcpu)
            await vcpu.mode.set(Mode.IN_GUEST_MODE)
            if clear:
                break
            await vcpu.mode.set(Mode.OUTSIDE_GUEST_MODE)
            await vcpu.pcpu.interrupts_on()
        await self.run_guest(vcpu)


@pytest.mark.parametrize(
    ("feature", "mutant"),
    [
        ("mmu-reload", NoSecondLook),
        ("vcpu-mode", NoSecondLook),
        ("vcpu-mode", OnlyTheGuest),
        ("vcpu-mode", ModeFirst),
    ],
)
def test_without_one_step_a_request_is_lost(feature: str, mutant: type) -> None:
    component = mutant.__mro__[1].__name__
    assert codes(world(feature, component, mutant)) == ("request/lost",)
