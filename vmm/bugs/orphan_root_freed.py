"""Zapping what a page alone leads to asks for parents, and not whether it is somebody's root.

vCPU 0                                 vCPU 1 (runs on root T)
acquires mmu_lock; zaps page S, the
only parent of T
T has no parent left: unlinked, freed
with S after the flush
                                       walks from T: free, or another table's shadow
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import orphan_zap
from vmm.features.mmu_reload import cache_of

if TYPE_CHECKING:
    from vmm.features.two_phase_zap import Prepared
    from vmm.mmu.api import VcpuState
    from vmm.mmu.shadow_page import ShadowPage


class Zap(orphan_zap.Zap):
    """Frees orphans, whoever runs on them."""

    async def prepare(self, me: VcpuState | None, page: ShadowPage) -> Prepared:
        """The right one keeps a page that is a root as well."""
        if not await page.root_count:
            return await super().prepare(me, page)
        header = await self.unlink(page)
        return ((page, await cache_of(self.mmu).invalidate(page, header)),)


SPEC = Bug(
    title="an orphan is freed though it is the root of a vCPU",
    source="a mutant; the recursion of KVM 5.10, without root_count",
    points=("S16",),
    caught_by=("audit/free-page-clean",),
    needs=("orphan-zap",),
    scenario="zapscape",
)
