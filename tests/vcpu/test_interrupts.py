"""IPIs between the guest's own CPUs, exhausted: none is lost, wherever the target stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tiny import codes, exhausted, tiny
from vmm.engine.ops import wait_until
from vmm.hw.layout import REGION, page
from vmm.vcpu.apic import Apic
from vmm.vcpu.run_loop import ANY_GVA, RunLoop
from vmm.vcpu.vcpu import Vcpu

if TYPE_CHECKING:
    from vmm.components import Overrides
    from vmm.engine.world import World
    from vmm.programs import GuestProgram
    from vmm.vcpu.guest import Guest

FLAG = REGION


async def sends(cpu: Guest) -> None:
    await cpu.send_ipi(1)


async def spins(cpu: Guest) -> None:
    await cpu.wait_for(FLAG, 1)


async def halts(cpu: Guest) -> None:
    await cpu.wait_for_interrupt()


async def halts_twice(cpu: Guest) -> None:
    await cpu.wait_for_interrupt()
    await cpu.wait_for_interrupt()


async def handler(cpu: Guest) -> None:
    await cpu.store(FLAG, 1)
    await cpu.mark("handled")


async def warms(cpu: Guest) -> None:
    await cpu.store(FLAG, 0)


def world(waits: GuestProgram, overrides: Overrides | None = None) -> World:
    return tiny(
        {"A": {int(FLAG): page(2)}},
        sends,
        waits,
        setups=(warms, warms),
        interrupts={1: handler},
        overrides=overrides,
        goals=("handled",),
    )


@pytest.mark.parametrize("waits", [spins, halts, halts_twice])
def test_every_interrupt_is_handled(waits: GuestProgram) -> None:
    """Exhausted without a deadlock and without a state from which the target never gets it."""
    exhausted(world(waits))


class NoKick(RunLoop):
    async def kick(self, vcpu: Vcpu) -> None:
        return


def test_a_vcpu_in_the_guest_must_be_kicked() -> None:
    assert codes(world(spins, {"RunLoop": [NoKick]})) == ("livelock/inescapable",)


def test_a_halted_vcpu_needs_no_kick() -> None:
    exhausted(world(halts, {"RunLoop": [NoKick]}))


class ForgetfulHalt(RunLoop):
    """Forgets what came in before it sleeps."""

    async def halt(self, vcpu: Vcpu) -> None:
        await self.leave(vcpu, "halt")
        await vcpu.apic.set(Apic())
        await wait_until(vcpu.apic, _requested)
        await self.to_boundary(vcpu, ANY_GVA)


def _requested(apic: Apic) -> bool:
    return apic.requested


def test_a_wakeup_that_is_lost_is_found() -> None:
    assert codes(world(halts, {"RunLoop": [ForgetfulHalt]})) == ("deadlock/stuck",)
