"""A write to a 32-bit page-directory entry clears one spte, and not one of its own.

    vCPU 0
    stores pde n: trapped, emulated
    the pde maps 4M, two entries of the shadow: 2n and 2n + 1
    clears entry n, as if it were a page-table entry; or, rounded, one of the two

    vCPU 1 goes on through the table that the pde named before

The first fix cleared both, from where the write began; the second rounded that down to the pde.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import pte_write
from vmm.mmu.api import VcpuState
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import ENTRIES_PER_TABLE, Gpa, page_offset


class PteWrite(pte_write.PteWrite):
    """Takes every 32-bit entry for one of a page table."""

    async def update_spte(
        self, vcpu: VcpuState, page: ShadowPage, role: Role, gpa: Gpa, value: int
    ) -> None:
        """The fix clears both sptes of a pde."""
        if (role.glevels, role.level) != (2, 2):
            await super().update_spte(vcpu, page, role, gpa, value)
            return
        index = page_offset(gpa) // role.gpte_bytes % ENTRIES_PER_TABLE
        if await self.mmu.zap.drop_spte(page, role.level, index):
            await self.mmu.flusher.flush_remote(vcpu)


SPEC = Bug(
    title="the shadow of a 32-bit page directory does not follow writes to its entries",
    year=2007,
    fix="ac1b714e78",
    source="KVM ac1b714e78, 6b8d0f9b18 (2.6.21); behaviour since 9b7a032567 (2.6.20)",
    caught_by=("audit/spte-agrees",),
    seen="a 32-bit guest goes on using a page table that it has replaced",
)
