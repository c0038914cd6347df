"""A fast page fault makes a table writable: nothing says why its spte has no W.

vCPU 0                                 vCPU 1
reads the spte of g: W = 0
                                       acquires mmu_lock; makes g a table
                                       W is clear: nothing to do
                                       releases mmu_lock
cmpxchg: the spte is as it was; sets W
stores to g: no trap
"""

from __future__ import annotations

from vmm.bits import W
from vmm.bugs import Bug
from vmm.features import fast_page_fault
from vmm.mmu.shadow_page import SpteRef


class Shadowing(fast_page_fault.Shadowing):
    """Protects a table as the dirty log protects a page."""

    async def clear_writable(self, ref: SpteRef) -> bool:
        """The fix takes MMU_WRITEABLE too."""
        return await self.protect(ref, W)


SPEC = Bug(
    title="a fast page fault lifts the write protection of a page table",
    year=2012,
    fix="c7ba5b48cc",
    source="KVM c7ba5b48cc (3.6): why SPTE_MMU_WRITEABLE is there; twin 7c8a4742c4ab (5.17)",
    caught_by=("audit/write-protection",),
    needs=("fast-page-fault",),
    seen="a guest that is being migrated runs on page tables that KVM does not follow",
)
