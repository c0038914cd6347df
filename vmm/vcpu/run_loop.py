"""The run loop of a vCPU: enter the guest, run an instruction, exit, handle.

Entry: interrupts off, publish the mode, take the requests, enter. A request made after they were
taken comes with an IPI, which stays pending while interrupts are off and ends the guest run at
once.

Source: KVM d9e368d612 (2007), 17c3ba9d37 (2007, root loaded before entry); vcpu-requests.rst.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from vmm.engine.events import Event
from vmm.engine.ops import wait_until
from vmm.engine.world import ModelObject
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.pcpu import Boundary, Irq
from vmm.mmu.api import NO_ROOT, FaultResult
from vmm.units import Gva
from vmm.vcpu.apic import accept, end_of_interrupt, woken
from vmm.vcpu.events import Enter, Exit, PageFaultExit
from vmm.vcpu.requests import TLB_FLUSH
from vmm.vcpu.translation import Translation, look_up
from vmm.vcpu.vcpu import Mode, Vcpu

Handler = Callable[[], Coroutine[Any, Any, None]]
ANY_GVA = Gva(0)
"""For boundaries at which no address is looked up."""
DRAINING_EXITS = (
    "external interrupt",
    "page fault",
    "cr0 write",
    "cr3 load",
    "cr4 write",
    "efer write",
    "invlpg",
)
"""Exits by what drains the store buffer: interrupts, exceptions and serialising instructions.

Source: Intel SDM vol. 3, 11.10 and 8.3. Nothing that we found says that other exits or entries
serialise, so they do not here: a doubt, on the side of more behaviours.
"""


class RunLoop(ModelObject):
    """Runs guest instructions. ``handlers``: the guest's interrupt handler of each vCPU, if any."""

    def __init__(self) -> None:
        self.handlers: Mapping[int, Handler] = MappingProxyType({})

    def connect(self, handlers: Mapping[int, Handler]) -> None:
        """Give the guest's interrupt handlers; once, before the world is frozen."""
        self.handlers = MappingProxyType(dict(handlers))

    # --- in and out of the guest ---

    async def enter(self, vcpu: Vcpu) -> None:
        """Into the guest; the last thing before it is to take the requests."""
        await self.load_root(vcpu)
        await vcpu.pcpu.interrupts_off()
        await vcpu.mode.set(Mode.IN_GUEST_MODE)
        await self.serve_requests(vcpu)
        await self.run_guest(vcpu)

    async def load_root(self, vcpu: Vcpu) -> None:
        """Have a shadow root, loading it if there is none."""
        if await vcpu.root == NO_ROOT:
            await vcpu.mmu.roots.load(vcpu)

    async def run_guest(self, vcpu: Vcpu) -> None:
        """Let the guest run from here on, with its interrupt handler first if one is due."""
        inject = vcpu.number in self.handlers and await vcpu.apic.update(accept)
        await vcpu.pcpu.run_guest(Enter(vcpu.number))
        if inject:
            await self.handlers[vcpu.number]()
            await vcpu.apic.update(end_of_interrupt)

    async def serve_requests(self, vcpu: Vcpu) -> None:
        """Take all requests at once, then serve them. Interrupts are off."""
        requests = await vcpu.requests.update(_take)
        if requests & TLB_FLUSH or not vcpu.pcpu.tagged:
            await vcpu.pcpu.flush()

    async def exit(self, vcpu: Vcpu, reason: str, *events: Event) -> None:
        """Out of the guest, interrupts on again; ``events`` say more of the reason."""
        events = (Exit(vcpu.number, reason), *events)
        await vcpu.pcpu.interrupts_off(events, serialising=reason in DRAINING_EXITS)
        await vcpu.mode.set(Mode.OUTSIDE_GUEST_MODE)
        await vcpu.pcpu.interrupts_on()

    async def to_boundary(self, vcpu: Vcpu, gva: Gva) -> Boundary:
        """Be in the guest at an instruction boundary, about to use ``gva``."""
        while True:
            boundary = await vcpu.pcpu.at_boundary(gva, vcpu.root, vcpu.registers)
            if boundary.irq is Irq.GUEST:
                return boundary
            if boundary.irq is Irq.EXITING:
                await self.exit(vcpu, "external interrupt")
            await self.enter(vcpu)

    async def leave(self, vcpu: Vcpu, reason: str) -> None:
        """Exit if the guest runs: the host has something to do for it."""
        if not await vcpu.pcpu.is_in_host():
            await self.exit(vcpu, reason)

    async def halt(self, vcpu: Vcpu) -> None:
        """HLT until the guest has handled an interrupt."""
        await self.leave(vcpu, "halt")
        await wait_until(vcpu.apic, woken)
        await self.to_boundary(vcpu, ANY_GVA)

    async def kick(self, vcpu: Vcpu) -> None:
        """Make a vCPU that runs the guest look at what was set for it; nobody waits for it."""
        if await vcpu.mode is Mode.IN_GUEST_MODE:
            await vcpu.pcpu.send_ipi()

    async def invlpg(self, vcpu: Vcpu, gva: Gva) -> None:
        """INVLPG runs natively: no spte is older than its gpte. Source: KVM 5f015a5b28 (2007)."""
        await self.to_boundary(vcpu, ANY_GVA)
        await vcpu.pcpu.invlpg(gva)

    # --- memory accesses ---

    async def translate(
        self, vcpu: Vcpu, gva: Gva, kind: AccessKind
    ) -> Translation | GuestFault | None:
        """A translation that permits the access; None if the store must be emulated instead.

        Whether a usable TLB entry is used or walked afresh is the adversary's choice.
        """
        while True:
            boundary = await self.to_boundary(vcpu, gva)
            found = await look_up(vcpu, boundary, gva, kind)
            if found is not None:
                return found
            answer = await self.fault(vcpu, gva, kind)
            if isinstance(answer, GuestFault):
                return answer
            if answer is FaultResult.EMULATE:
                return None

    async def translate_both(
        self, vcpu: Vcpu, first: Gva, second: Gva, kind: AccessKind
    ) -> tuple[Translation, Translation] | GuestFault | None:
        """As ``translate``, for an access that crosses from one page to the next.

        Nothing is stored before both are known; an exit for the second starts all over.
        """
        while True:
            low = await self.translate(vcpu, first, kind)
            if not isinstance(low, Translation):
                return low
            # No interrupt is taken within an instruction, so this is no boundary.
            inside = await vcpu.pcpu.at_boundary(second, vcpu.root, vcpu.registers)
            high = await look_up(vcpu, inside, second, kind)
            if high is not None:
                return low, high
            answer = await self.fault(vcpu, second, kind)
            if isinstance(answer, GuestFault):
                return answer
            if answer is FaultResult.EMULATE:
                return None

    async def fault(self, vcpu: Vcpu, gva: Gva, kind: AccessKind) -> FaultResult | GuestFault:
        """Exit with a page fault and let the MMU handle it."""
        await self.exit(vcpu, "page fault", PageFaultExit(vcpu.number, gva, kind))
        return await vcpu.mmu.fault.page_fault(vcpu, gva, kind)


def _take(requests: int) -> tuple[int, int]:
    return 0, requests
