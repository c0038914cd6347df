"""A fault makes sure that shadow pages are free, lets go of mmu_lock, and takes them later.

vCPU 0                                 vCPU 1
acquires mmu_lock; enough are free; releases
the same
acquires mmu_lock; takes them; releases
acquires mmu_lock; needs one: none is left
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.hw.access import AccessKind, GuestFault
from vmm.mmu import fault, recycle
from vmm.mmu.api import FaultResult, VcpuState
from vmm.units import Gva


class PageFault(fault.PageFault):
    """Recycles in a critical section of its own."""

    async def page_fault(
        self, vcpu: VcpuState, gva: Gva, kind: AccessKind
    ) -> FaultResult | GuestFault:
        """The fix recycles under the lock that is held while pages are taken."""
        recycler = self.mmu.recycle
        assert isinstance(recycler, Recycle)
        async with self.mmu.lock:
            await recycler.recycle(vcpu)
        return await super().page_fault(vcpu, gva, kind)


class Recycle(recycle.Recycle):
    """Leaves it to what was done before."""

    async def free_some(self, me: VcpuState) -> None:
        """Nothing under the lock that the pages are taken under."""

    async def recycle(self, me: VcpuState) -> None:
        """Zap the oldest pages if too few are free."""
        await super().free_some(me)


SPEC = Bug(
    title="free shadow pages are counted in one critical section and taken in another",
    year=2007,
    fix="eb787d10af",
    source="KVM eb787d10af (2.6.25)",
    caught_by=("pool/exhausted",),
    seen="the host oopses when an SMP guest faults on two vCPUs with few shadow pages left",
)
