"""The MMU of before January 2007, for comparison: the shadow as a large software TLB.

Every vCPU builds shadow pages of its own on faults and throws them all away when it loads cr3.
Guest tables are not write-protected, so their writes do not trap; INVLPG does, and drops the spte.
An spte may thus be older than its gpte, as a TLB entry may.

The rmap is kept, which the code of that time did not have, so that audits can look at it.

Source: KVM before cea0f0e7ea (2007); 5f015a5b28 (removed the INVLPG exit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import P, frame_of
from vmm.mmu.api import NO_ROOT
from vmm.mmu.fault import PageFault
from vmm.mmu.guest_walk import ROOT_LEVEL, GuestWalk
from vmm.mmu.role import Role
from vmm.mmu.roots import Roots
from vmm.mmu.shadow_page import ShadowPage
from vmm.mmu.shadowing import Shadowing
from vmm.mmu.zap import Zap
from vmm.units import Gfn, Gva, table_index

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class UncachedShadowing(Shadowing):
    """Always makes a page, for one vCPU alone, and protects nothing."""

    async def get_page(self, me: VcpuState, gfn: Gfn, role: Role) -> ShadowPage:
        """A new page. Pages count as direct: no guest table is kept in sync with them."""
        return await self.mmu.cache.insert(gfn, role._replace(direct=True, owner=me.number + 1))


class UncachedPageFault(PageFault):
    """Takes the shadow as it is: staleness is the guest's to end."""

    async def child_matches(self, child: ShadowPage, gfn: Gfn, role: Role) -> bool:
        """A present link is followed, whatever it was made from."""
        return True

    async def gpte_unchanged(self, walk: GuestWalk, level: int) -> bool:
        """Nothing is re-read: an old gpte is no worse than an old TLB entry."""
        return True


class UncachedRoots(Roots):
    """A cr3 load throws the vCPU's shadow away."""

    async def switch(self, vcpu: VcpuState, cr3: Gfn) -> None:
        """Load cr3. The same value drops as much as another: sptes are as old as TLB entries."""
        await self.free(vcpu)
        await vcpu.cr3.set(cr3)

    async def free(self, vcpu: VcpuState) -> None:
        """Let go of the root and zap every page of this vCPU."""
        await super().free(vcpu)
        async with self.mmu.lock:
            for number in await self.mmu.cache.active:
                page = self.mmu.cache.pages[number]
                header = await page.header
                if header is not None and header.role.owner == vcpu.number + 1:
                    await self.mmu.zap.zap_page(vcpu, page)


class UncachedZap(Zap):
    """INVLPG drops one spte."""

    async def invlpg(self, vcpu: VcpuState, gva: Gva) -> None:
        """Drop the leaf of ``gva`` from the vCPU's shadow. Holds: nothing at the start."""
        async with self.mmu.lock:
            number = await vcpu.root
            if number == NO_ROOT:
                return
            page = self.mmu.cache.pages[number]
            for level in range(ROOT_LEVEL, 1, -1):
                spte = await page[table_index(gva, level)]
                if not spte & P:
                    return
                page = self.mmu.cache.page_at(frame_of(spte))
            if await self.drop_spte(page, 1, table_index(gva, 1)):
                await self.mmu.flusher.flush_local(vcpu)


OVERRIDES = {
    "PageFault": UncachedPageFault,
    "Roots": UncachedRoots,
    "Shadowing": UncachedShadowing,
    "Zap": UncachedZap,
}
