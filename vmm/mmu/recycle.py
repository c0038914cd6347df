"""Recycling: keeping shadow pages free for what a fault may need.

The oldest pages go first, in the order of their making; a hit does not make a page younger. Runs
under mmu_lock, in the critical section that takes the pages.

Source: KVM ebeace8609, 7f7417d67e (2007); eb787d10af (2008, inside the critical section).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.engine.world import ModelObject

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu


class Recycle(ModelObject):
    """``min_free`` pages must be free before a fault takes any; recycling goes on to ``refill``.

    KVM: KVM_MIN_FREE_MMU_PAGES 5, KVM_REFILL_PAGES 25.
    """

    def __init__(self, mmu: ShadowMmu, min_free: int, refill: int) -> None:
        self.mmu = mmu
        self.min_free = min_free
        self.refill = refill

    async def free_some(self, me: VcpuState) -> None:
        """Zap the oldest pages if too few are free. Holds: mmu_lock."""
        if len(await self.mmu.cache.free) >= self.min_free:
            return
        await mark("pages recycled")
        # One pass: roots in use cannot be freed, and KVM would go round them for ever.
        for number in await self.mmu.cache.active:
            await self.mmu.zap.zap_page(me, self.mmu.cache.pages[number])
            if len(await self.mmu.cache.free) >= self.refill:
                return
