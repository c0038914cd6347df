"""A zapped root is freed although a vCPU runs on it.

vCPU 0 (runs on root R)                host
                                       acquires mmu_lock; zaps R: unlinks, flushes
                                       R goes back to the pool
walks from R: free, or another
table's shadow by now
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.mmu import zap

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.shadow_page import Header, ShadowPage


class Zap(zap.Zap):
    """Does not count users."""

    async def keep_root(self, me: VcpuState | None, page: ShadowPage, header: Header) -> None:
        """The right one keeps the page until its last user has let go."""
        await self.mmu.cache.remove(page, header)


SPEC = Bug(
    title="a root is freed while a vCPU runs on it",
    source="a mutant; KVM 3bb65a22a4 (2007) keeps it",
    points=("S14",),
    caught_by=("audit/free-page-clean",),
    scenario="zapped-root-lookup",
)
