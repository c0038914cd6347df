"""Two emulated writes to one gpte: memory ends with the second, the shadow with the first.

    vCPU 0                                 vCPU 1
    emulates store gpte = A: memory is A
                                           emulates store gpte = B: memory is B
                                           acquires mmu_lock; shadow := B; releases
    acquires mmu_lock; shadow := A, the value that it wrote itself

The table counts as in sync, so that not even a TLB flush of the guest repairs it.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import pte_write
from vmm.mmu.role import Role
from vmm.units import Gpa


class PteWrite(pte_write.PteWrite):
    """Updates the shadow from the value that was written."""

    async def current_gpte(self, role: Role, gpa: Gpa, value: int) -> int:
        """The fix reads memory again, under the lock."""
        del role, gpa
        return value


SPEC = Bug(
    title="memory ends with the second of two emulated writes, the shadow with the first",
    year=2018,
    fix="0e0fee5c539b",
    source="KVM 0e0fee5c539b (4.20-rc4, stable); behaviour since 0028425f64 (2.6.23)",
    caught_by=("audit/spte-agrees", "architecture/translation"),
    seen="an SMP guest keeps using a mapping that its page tables no longer hold",
)
