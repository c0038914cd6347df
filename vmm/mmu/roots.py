"""Shadow roots: found in the cache when cr3 is loaded, and kept while a vCPU uses them.

Source: KVM cea0f0e7ea, 3bb65a22a4 (2007); 17c3ba9d37 (2007, the root is loaded before entry).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.engine.world import ModelObject
from vmm.mmu.api import NO_ROOT
from vmm.mmu.guest_walk import root_role
from vmm.units import Gfn

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import ShadowPage


class Roots(ModelObject):
    """Loads and frees the shadow root of a vCPU."""

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    async def load(self, vcpu: VcpuState) -> int:
        """Make the shadow of cr3's table the root; gives the number of its page."""
        async with self.mmu.lock:
            await self.mmu.recycle.free_some(vcpu)
            gfn = Gfn(await vcpu.cr3)
            page = await self.mmu.shadowing.get_page(vcpu, gfn, root_role())
            if await page.present:
                await mark("cached root found")
            await page.root_count.update(_add, 1)
            await vcpu.root.set(page.number)
        await self.mmu.flusher.flush_local(vcpu)
        return page.number

    async def switch(self, vcpu: VcpuState, cr3: Gfn) -> None:
        """Load cr3. The same value again only flushes the TLB. Source: KVM d835dfecd0 (2008)."""
        if await vcpu.cr3 == cr3:
            await self.mmu.flusher.flush_local(vcpu)
        else:
            await self.free(vcpu)
            await vcpu.cr3.set(cr3)

    async def free(self, vcpu: VcpuState) -> None:
        """Let go of the root. It stays in the cache for the next load of the same cr3."""
        async with self.mmu.lock:
            number = await vcpu.root
            if number != NO_ROOT:
                await self.release_root(vcpu, self.mmu.cache.pages[number])

    async def release_root(self, vcpu: VcpuState, page: ShadowPage) -> None:
        """Drop one use of a root. Holds: mmu_lock."""
        await page.root_count.update(_add, -1)
        await vcpu.root.set(NO_ROOT)


def _add(count: int, change: int) -> tuple[int, None]:
    return count + change, None
