"""The flush protocol, exhausted: a request is served before the guest runs on what it revokes.

The world is as small as it gets: a vCPU whose TLB holds a page, and a host that takes that page.
The search puts the request at every point of the vCPU's way into the guest, through it and out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hand import bench
from tests.tiny import codes, exhausted, tiny
from vmm.engine.events import Event, EventSpec
from vmm.hw.layout import REGION, page
from vmm.hw.pcpu import Ipi, Pcpu
from vmm.mmu.api import NO_ROOT
from vmm.vcpu.events import Enter, Exit
from vmm.vcpu.flush import Flush
from vmm.vcpu.requests import TLB_FLUSH
from vmm.vcpu.run_loop import RunLoop
from vmm.vcpu.vcpu import Mode, Vcpu

if TYPE_CHECKING:
    from vmm.components import Overrides
    from vmm.engine.world import World
    from vmm.mmu.api import VcpuState
    from vmm.vcpu.guest import Guest
    from vmm.vcpu.host import Host

FRAME = 2
SPACES = {"A": {int(REGION): page(FRAME)}}


async def uses(cpu: Guest) -> None:
    await cpu.load(REGION)


async def takes(host: Host) -> None:
    await host.reclaim(FRAME)


def world(overrides: Overrides | None = None) -> World:
    return tiny(
        SPACES,
        uses,
        setups=(uses,),
        hosts={"reclaim": takes},
        features=("host-paging",),
        overrides=overrides,
        goals=("page given back",),
    )


def test_no_request_is_late() -> None:
    assert exhausted(world()).states > 500


# --- each step of the protocol bears weight ---


class EarlyCheck(RunLoop):
    """Requests are taken while interrupts are still on."""

    async def enter(self, vcpu: Vcpu) -> None:
        if await vcpu.root == NO_ROOT:
            await vcpu.mmu.roots.load(vcpu)
        await self.serve_requests(vcpu)
        await vcpu.pcpu.interrupts_off()
        await vcpu.mode.set(Mode.IN_GUEST_MODE)
        await vcpu.pcpu.run_guest(Enter(vcpu.number))


class NoFlush(RunLoop):
    """Requests are taken and thrown away."""

    async def serve_requests(self, vcpu: Vcpu) -> None:
        await vcpu.requests.set(0)


class EarlyOn(RunLoop):
    """Interrupts are on before the mode says that the guest has stopped."""

    async def exit(self, vcpu: Vcpu, reason: str, *events: Event) -> None:
        await vcpu.pcpu.interrupts_on((Exit(vcpu.number, reason), *events))
        await vcpu.mode.set(Mode.OUTSIDE_GUEST_MODE)


class NoWait(Flush):
    """The flusher does not wait for the IPIs."""

    async def wait_for_acks(self, pcpus: tuple[Pcpu, ...]) -> None:
        return


class NoRequest(Flush):
    """The IPI goes out without a request."""

    async def make_request(self, vcpu: Vcpu, request: int, *, event: EventSpec = None) -> bool:
        return True


class InterruptFirst(Flush):
    """The IPI goes out, and is acknowledged, before the request is set."""

    async def flush_remote(self, me: VcpuState | None) -> None:
        for vcpu in self.vcpus:
            await vcpu.pcpu.send_ipi()
        await self.wait_for_acks(tuple(vcpu.pcpu for vcpu in self.vcpus))
        for vcpu in self.vcpus:
            await self.make_request(vcpu, TLB_FLUSH)


@pytest.mark.parametrize("mutant", [NoFlush, NoWait, NoRequest])
def test_without_one_step_the_guest_reaches_a_page_that_is_gone(mutant: type) -> None:
    component = mutant.__mro__[1].__name__
    assert codes(world({component: [mutant]})) == ("isolation/page-given-back",)


@pytest.mark.parametrize("mutant", [EarlyCheck, InterruptFirst])
def test_in_the_wrong_order_a_request_is_lost(mutant: type) -> None:
    component = mutant.__mro__[1].__name__
    assert codes(world({component: [mutant]})) == ("request/lost",)


def test_interrupts_may_be_on_as_soon_as_the_guest_has_stopped() -> None:
    """A near miss: what counts is that no instruction runs any more."""
    exhausted(world({"RunLoop": [EarlyOn]}))


# --- by hand ---


def test_all_are_asked_and_all_others_interrupted() -> None:
    made = bench(SPACES, vcpus=3)
    doing = made.hand.start(made.vm.mmu.flusher.flush_remote(made.vm.vcpus[1]))
    while doing.enabled:
        doing.step()
    assert [made.hand[vcpu.requests] for vcpu in made.vm.vcpus] == [TLB_FLUSH] * 3
    assert [made.hand[vcpu.pcpu.ipi] for vcpu in made.vm.vcpus] == [Ipi.SENT, Ipi.NONE, Ipi.SENT]
    doing.finish()
    assert all(made.hand[vcpu.pcpu.ipi] is Ipi.NONE for vcpu in made.vm.vcpus)


def test_who_has_been_asked_already_is_not_interrupted_again() -> None:
    made = bench(SPACES, vcpus=2)
    made.hand[made.vm.vcpus[1].requests] = TLB_FLUSH
    doing = made.hand.start(made.vm.mmu.flusher.flush_remote(made.vcpu))
    while not doing.ended:
        doing.step()
    assert made.hand[made.vm.vcpus[1].pcpu.ipi] is Ipi.NONE


def test_a_host_thread_interrupts_everybody() -> None:
    made = bench(SPACES, vcpus=2)
    doing = made.hand.start(made.vm.mmu.flusher.flush_remote(None))
    while doing.enabled:
        doing.step()
    assert [made.hand[vcpu.pcpu.ipi] for vcpu in made.vm.vcpus] == [Ipi.SENT, Ipi.SENT]


def test_a_local_flush_asks_only_oneself() -> None:
    made = bench(SPACES, vcpus=2)
    made.do(made.vm.mmu.flusher.flush_local(made.vcpu))
    assert [made.hand[vcpu.requests] for vcpu in made.vm.vcpus] == [TLB_FLUSH, 0]
    assert all(made.hand[vcpu.pcpu.ipi] is Ipi.NONE for vcpu in made.vm.vcpus)
