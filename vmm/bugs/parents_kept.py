"""A zapped page is freed while its parents still point to it.

vCPU 0                                 vCPU 1
acquires mmu_lock; zaps page S:
empties it, flushes
S goes back to the pool
                                       walks: an entry above still leads to S
                                       S, free, or another table's shadow by now
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import zap
from vmm.mmu.shadow_page import ShadowPage


class Zap(zap.Zap):
    """Forgets the way in."""

    async def unlink_parents(self, page: ShadowPage) -> None:
        """The right one clears every spte that leads to the page."""


SPEC = Bug(
    title="a zapped page stays linked",
    source="a mutant; KVM 697fe2e24a (2007) unlinks",
    points=("S13",),
    caught_by=("audit/free-page-clean",),
    scenario="zap-against-fault",
)
