"""Loading a root takes a shadow page without making sure that one is free.

    vCPU 0                                 vCPU 1
                                           faults until the pool is almost empty
    loads cr3; needs a page for the root
                                           takes the last one
    finds none

Only page faults, and later MOV CR3 (7f7417d67e), recycled.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import recycle
from vmm.mmu.api import NO_ROOT, VcpuState


class Recycle(recycle.Recycle):
    """Recycles for faults only: a vCPU that loads its root has none."""

    async def free_some(self, me: VcpuState) -> None:
        """The fix covers every root load."""
        if await me.root != NO_ROOT:
            await super().free_some(me)


SPEC = Bug(
    title="a root is loaded without recycling, into a pool that may be empty",
    year=2007,
    fix="22d95b1282",
    source="KVM 22d95b1282 (2.6.23), after 7f7417d67e (2.6.20)",
    caught_by=("pool/exhausted",),
    seen="the host oopses when a guest switches address spaces with few shadow pages left",
)
