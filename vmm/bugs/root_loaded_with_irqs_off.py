"""The root is loaded with interrupts off already, on the way into the guest.

    vCPU 0                                 vCPU 1
    interrupts off
                                           acquire mmu_lock
                                           flush: IPI to vCPU 0, waits for it to be taken
    wants mmu_lock: waits
    each waits for the other

Who holds mmu_lock waits for IPIs, so nobody who takes none may wait for mmu_lock.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.vcpu import run_loop
from vmm.vcpu.vcpu import Vcpu


class RunLoop(run_loop.RunLoop):
    """Turns interrupts off a little early."""

    async def load_root(self, vcpu: Vcpu) -> None:
        """The right one leaves them on: the load takes mmu_lock."""
        await vcpu.pcpu.interrupts_off()
        await super().load_root(vcpu)


SPEC = Bug(
    title="mmu_lock is taken with interrupts off",
    source="KVM 17c3ba9d37 (2007): the root is loaded before interrupts are off",
    caught_by=("deadlock/stuck",),
    scenario="zap-against-fault",
)
