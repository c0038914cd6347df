"""TLB flushes of other vCPUs: request bit, asynchronous IPI, acknowledgement.

    vCPU 0 (flushes; the spte is changed)  vCPU 1
    set TLB_FLUSH in requests1
    send an IPI to pCPU 1
                                           in the guest: exits at the next boundary
                                           interrupts on: takes the IPI (acknowledged)
    sees the acknowledgement, goes on
                                           interrupts off; takes its requests; flushes; enters

The bit is set before the IPI, so that a vCPU interrupted in the guest sees it before it enters
again. Interrupts are off from before the bit is tested until the guest runs, so an IPI sent after
the test stays pending and makes the guest exit at once.

Source: KVM d9e368d612 (2007). A vCPU whose bit was already set gets no second IPI: right as long as
all flushers hold mmu_lock, since then the first one has been acknowledged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import wait_until
from vmm.engine.world import ModelObject
from vmm.hw.pcpu import Ipi
from vmm.vcpu.requests import TLB_FLUSH
from vmm.vcpu.vcpu import Vcpu

if TYPE_CHECKING:
    from vmm.engine.events import EventSpec
    from vmm.hw.pcpu import Pcpu
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu


class Flush(ModelObject):
    """Fulfils the MMU's ``Flusher``. ``vcpus`` are all vCPUs of the VM."""

    def __init__(self, vcpus: tuple[Vcpu, ...]) -> None:
        self.vcpus = vcpus

    async def flush_remote(self, me: VcpuState | None) -> None:
        """Make every vCPU flush; once this returns none runs the guest on an old translation.

        Holds: mmu_lock. Ops: a request each, an IPI to each other vCPU, one wait.
        """
        await self.ask_all(me, TLB_FLUSH)

    async def flush_local(self, me: VcpuState, *, event: EventSpec = None) -> None:
        """Make ``me``, which is outside the guest, flush before it enters."""
        await self.make_request(self.vcpus[me.number], TLB_FLUSH, event=event)

    async def ask_all(self, me: VcpuState | None, request: int) -> None:
        """Make a request of every vCPU; wait until none runs the guest without knowing of it."""
        interrupted: tuple[Pcpu, ...] = ()
        for vcpu in self.vcpus:
            was_clear = await self.make_request(vcpu, request)
            if vcpu is not me and await self.needs_ipi(vcpu, was_clear=was_clear):
                interrupted = (*interrupted, *await vcpu.pcpu.send_ipi())
        if interrupted:
            await self.wait_for_acks(interrupted)

    async def make_request(self, vcpu: Vcpu, request: int, *, event: EventSpec = None) -> bool:
        """Set the request bit; whether it was clear."""
        return await vcpu.requests.update(_set_bit, request, event=event)

    async def needs_ipi(self, vcpu: Vcpu, *, was_clear: bool) -> bool:
        """Whether a vCPU must be interrupted for a request that was just made."""
        return was_clear

    async def wait_for_acks(self, pcpus: tuple[Pcpu, ...]) -> None:
        """Wait until each of these has taken its IPI."""
        await wait_until(tuple(pcpu.ipi for pcpu in pcpus), _all_taken)


def flusher_of(mmu: ShadowMmu) -> Flush:
    """Who flushes for an MMU, with all that it can do for vCPUs."""
    assert isinstance(mmu.flusher, Flush)
    return mmu.flusher


def _set_bit(requests: int, bit: int) -> tuple[int, bool]:
    return requests | bit, not requests & bit


def _all_taken(*ipis: Ipi) -> bool:
    return all(ipi is Ipi.NONE for ipi in ipis)
