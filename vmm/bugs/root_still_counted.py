"""A vCPU lets go of its root without taking itself off the count.

    vCPU 0                                 vCPU 1
    runs on root R: R.root_count = 1
    MOV CR3: root of vCPU 0 := none
    R.root_count is still 1                zaps R: in use, so it is emptied and stays
                                           nobody will ever free it

A page that counts a user which it has not is never given back: the pool runs dry, one address space
at a time.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import roots
from vmm.mmu.api import NO_ROOT, VcpuState


class Roots(roots.Roots):
    """Forgets the root of a vCPU, and who used it."""

    async def free(self, vcpu: VcpuState) -> None:
        """The right one counts down first."""
        async with self.mmu.lock:
            await vcpu.root.set(NO_ROOT)


SPEC = Bug(
    title="a root that a vCPU lets go of keeps its count",
    source="KVM 3bb65a22a4 (2007, root_count)",
    caught_by=("audit/root-counts",),
    scenario="context-switches",
)
