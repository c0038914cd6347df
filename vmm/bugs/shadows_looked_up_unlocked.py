"""An emulated store looks without mmu_lock whether its table is shadowed, and leaves it at that.

    vCPU 0                                 vCPU 1
    emulates store gpte := Y
    finds no shadow of the table
                                           acquire mmu_lock
                                           inserts a shadow page of the table
                                           installs the spte of X, read before; release
    goes on: the shadow keeps X

The buckets belong to mmu_lock. KVM may leave the lock out where a counter says that nothing at all
is shadowed, and only with barriers (226d9b8f1688).
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import pte_write
from vmm.mmu.api import VcpuState
from vmm.units import Gpa, gpa_to_gfn


class PteWrite(pte_write.PteWrite):
    """Takes the lock only if it seems to be worth it."""

    async def follow(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """The right one looks under the lock."""
        if await self.mmu.cache.shadows(gpa_to_gfn(gpa)):
            await super().follow(vcpu, gpa, value, size)


SPEC = Bug(
    title="shadows of a written table are looked up without mmu_lock",
    source="Documentation/virt/kvm/locking.rst (mmu_lock); KVM 226d9b8f1688 (2024)",
    caught_by=("lock/unguarded",),
    scenario="emulated-write-order",
)
