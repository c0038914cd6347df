"""Shadow pages are recycled by vCPUs that share mmu_lock.

    vCPU 0                                 vCPU 1
    acquires mmu_lock, shared              acquires mmu_lock, shared
    too few pages are free
                                           too few pages are free
    zaps the oldest page
                                           zaps the same page: taken off its
                                           lists a second time

The first store under the shared lock breaks the rule already, before two vCPUs meet.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import rwlock
from vmm.mmu.api import VcpuState
from vmm.units import Gva


class PageFault(rwlock.PageFault):
    """Recycles whatever lock it has."""

    async def give_w_back(self, vcpu: VcpuState, gva: Gva) -> bool:
        """The fix does not recycle here: nothing is built under a shared lock that needs it."""
        await self.mmu.recycle.free_some(vcpu)
        return await super().give_w_back(vcpu, gva)


SPEC = Bug(
    title="shadow pages are recycled while mmu_lock is shared",
    year=2022,
    fix="47b0c2e4c220",
    source="KVM 47b0c2e4c220 (6.1), CVE-2022-45869",
    caught_by=("lock/unguarded",),
    needs=("rwlock",),
    seen="the host oopses when vCPUs fault at once with few shadow pages left",
    cve="CVE-2022-45869",
)
