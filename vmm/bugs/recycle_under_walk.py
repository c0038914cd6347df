"""Shadow pages are recycled where one is needed, in the middle of the descent.

    vCPU 0                                 vCPU 1
                                           has filled the pool
    acquires mmu_lock; descends to page S
    needs a page below S: none is free;
    zaps the oldest pages, S among them
    links the new page into S, which is
    free, or serves another table by now

One vCPU suffices if its own pages are the oldest. The rule is that recycling is over before the
descent begins, under the same exclusive lock. In 2022 it was broken in another way
(``recycle-shared-lock``).
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import recycle, shadowing
from vmm.mmu.api import VcpuState
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import Gfn


class Recycle(recycle.Recycle):
    """Waits until a page is needed."""

    async def free_some(self, me: VcpuState) -> None:
        """The fix recycles here, while nobody holds on to a page."""

    async def free_one(self, me: VcpuState) -> None:
        """Zap the oldest pages if none is free."""
        if not await self.mmu.cache.free:
            await super().free_some(me)


class Shadowing(shadowing.Shadowing):
    """Recycles for itself."""

    async def get_page(self, me: VcpuState, gfn: Gfn, role: Role) -> ShadowPage:
        """The shadow page of (gfn, role)."""
        recycler = self.mmu.recycle
        assert isinstance(recycler, Recycle)
        await recycler.free_one(me)
        return await super().get_page(me, gfn, role)


SPEC = Bug(
    title="shadow pages are recycled during the descent that goes through them",
    year=2022,
    fix="47b0c2e4c220",
    source="a mutant of the rule that KVM 47b0c2e4c220 (6.2) and 658e81701970 (2.6.21) restored",
    caught_by=("audit/free-page-clean", "audit/parent-links"),
    seen="the host uses a shadow page that was freed",
)
