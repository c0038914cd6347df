"""A fault whose root was zapped meanwhile is retried, and pages take after the page above them.

    vCPU 0 (faults on root R)              vCPU 1 or host
    exits; walks the guest's tables
                                           acquire mmu_lock
                                           zap R: invalid; MMU_RELOAD
                                           release mmu_lock
    acquire mmu_lock
    recycle, if too few pages are free
    R is invalid: release mmu_lock, retry
    takes MMU_RELOAD: loads another root

What hangs below an invalid page is never used again, so a fault must build nothing there. This is
looked at last before the descent: recycling may zap roots, too, that of this vCPU among them.

The role of a page below is that of the page above with another level and other rights; so is
``invalid``. A page made below an invalid one would be invalid from the start.

Source: KVM a955cad84cda (2021, 5.16, is_page_fault_stale); roles after the parent's (2022; a doubt:
the version, 5.19, is recalled).
The order is that of 2abd5287f083 (2026), which put the recycling first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.features import Feature
from vmm.mmu import fault
from vmm.mmu.api import FaultResult

if TYPE_CHECKING:
    from vmm.hw.access import AccessKind
    from vmm.mmu.api import VcpuState
    from vmm.mmu.guest_walk import GuestWalk
    from vmm.mmu.role import Role
    from vmm.mmu.shadow_page import ShadowPage
    from vmm.units import Gfn, Gva, Pfn


class PageFault(fault.PageFault):
    """Builds nothing below a root that was zapped."""

    async def fetch(
        self, vcpu: VcpuState, walk: GuestWalk, pfn: Pfn, kind: AccessKind
    ) -> FaultResult:
        """Descend, if the root still counts; recycling is over."""
        if await self.root_is_stale(vcpu, walk.gva):
            await mark("stale root found")
            return FaultResult.RESUME
        return await super().fetch(vcpu, walk, pfn, kind)

    async def root_is_stale(self, vcpu: VcpuState, gva: Gva) -> bool:
        """Whether the root was zapped, or all pages were since it was made (``fast-zap``)."""
        cache, root = self.mmu.cache, await vcpu.root
        page = cache.pages[root.page(gva)]
        header = await page.header
        if header is None or header.role.invalid:
            return True
        if cache.mmu_valid_gen is None or page.mmu_valid_gen is None:
            return False
        return await page.mmu_valid_gen != await cache.mmu_valid_gen

    async def child_key(self, page: ShadowPage, walk: GuestWalk, level: int) -> tuple[Gfn, Role]:
        """What the child of ``page`` on the way shadows, under a role that follows the page's."""
        gfn, role = await super().child_key(page, walk, level)
        header = await page.header
        return gfn, role._replace(invalid=header is not None and header.role.invalid)


SPEC = Feature(
    title="faults on a root that was zapped are retried",
    source="KVM a955cad84cda (5.16), 2abd5287f083 (2026)",
    since="5.16",
    eras=("2026",),
    needs=("invalid-unlisted",),
)
