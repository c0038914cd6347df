"""MOV CR3 changes the register, and the vCPU goes on with the root of the space before.

    vCPU 0                                 vCPU 1
    runs on the root of space A
    MOV CR3, space B: exits
    acquire mmu_lock; cr3 := B; release
    enters on the root of space A          zaps, protects and syncs what it finds below B

The right one lets go of the root before the register changes, so that the next entry has none and
loads the one that cr3 names.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.hw.events import RegistersWritten
from vmm.mmu import roots
from vmm.mmu.api import VcpuState


class Roots(roots.Roots):
    """Loads cr3, and no root for it."""

    async def switch(self, vcpu: VcpuState, written: RegistersWritten) -> None:
        """The right one frees the root first."""
        async with self.mmu.lock:
            await vcpu.registers.set(written.new, event=written)


SPEC = Bug(
    title="a vCPU keeps its root when it loads another cr3",
    source="KVM cea0f0e7ea (2007): nonpaging_new_cr3 and paging_new_cr3 free the roots",
    caught_by=("audit/root-matches-cr3",),
    scenario="context-switches",
)
