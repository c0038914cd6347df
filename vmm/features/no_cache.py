"""The MMU of before January 2007, for comparison: the shadow as a large software TLB.

Every vCPU builds shadow pages of its own on faults and throws them all away when it loads cr3.
Guest tables are not write-protected, so their writes do not trap; INVLPG does, and drops the spte.
An spte may thus be older than its gpte, as a TLB entry may.

    vCPU 0 (guest)                         KVM
    stores a gpte: no trap
                                           the spte stays as it was
    INVLPG: exits
                                           acquire mmu_lock; drop the spte; release
    loads: faults, walks the guest's tables afresh

The rmap is kept, which the code of that time did not have, so that audits can look at it.

Source: KVM before cea0f0e7ea (2007); 5f015a5b28 (removed the INVLPG exit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.features import Feature
from vmm.mmu import fault, roots, shadowing, zap
from vmm.mmu.guest_walk import GuestWalk
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import Gfn, Gva, table_index
from vmm.vcpu import run_loop

if TYPE_CHECKING:
    from vmm.hw.events import RegistersWritten
    from vmm.mmu.api import VcpuState
    from vmm.vcpu.vcpu import Vcpu


class Shadowing(shadowing.Shadowing):
    """Always makes a page, for one vCPU alone, and protects nothing."""

    async def get_page(self, me: VcpuState, gfn: Gfn, role: Role) -> ShadowPage:
        """A new page. Pages count as direct: no guest table is kept in sync with them."""
        return await self.mmu.cache.insert(gfn, role._replace(direct=True, owner=me.number + 1))


class PageFault(fault.PageFault):
    """Takes the shadow as it is: staleness is the guest's to end."""

    async def child_matches(self, child: ShadowPage, gfn: Gfn, role: Role) -> bool:
        """A present link is followed, whatever it was made from."""
        return True

    async def gpte_unchanged(self, walk: GuestWalk, level: int) -> bool:
        """Nothing is re-read: an old gpte is no worse than an old TLB entry."""
        return True


class Roots(roots.Roots):
    """A cr3 load throws the vCPU's shadow away."""

    async def switch(self, vcpu: VcpuState, written: RegistersWritten) -> None:
        """The same value drops as much as another: sptes are as old as TLB entries."""
        await self.free(vcpu)
        await vcpu.registers.set(written.new, event=written)

    async def free(self, vcpu: VcpuState) -> None:
        """Let go of the root and zap every page of this vCPU."""
        await super().free(vcpu)
        async with self.mmu.lock:
            for number in await self.mmu.cache.active:
                page = self.mmu.cache.pages[number]
                header = await page.header
                if header is not None and header.role.owner == vcpu.number + 1:
                    await self.mmu.zap.zap_page(vcpu, page)


class Zap(zap.Zap):
    """INVLPG drops one spte."""

    async def invlpg(self, vcpu: VcpuState, gva: Gva) -> None:
        """Drop the leaf of ``gva`` from the vCPU's shadow. Holds: nothing at the start."""
        async with self.mmu.lock:
            page = await self.mmu.cache.leaf_page(await vcpu.root, gva)
            if page is not None and await self.drop_spte(page, 1, table_index(gva, 1)):
                await self.mmu.flusher.flush_local(vcpu)


class RunLoop(run_loop.RunLoop):
    """INVLPG exits."""

    async def invlpg(self, vcpu: Vcpu, gva: Gva) -> None:
        """Drop the spte, then the TLB entry."""
        await self.leave(vcpu, "invlpg")
        dropper = vcpu.mmu.zap
        assert isinstance(dropper, Zap)
        await dropper.invlpg(vcpu, gva)
        await vcpu.pcpu.invlpg(gva)


SPEC = Feature(
    title="the MMU of before January 2007: a shadow for each vCPU, thrown away at each cr3 load",
    source="KVM before cea0f0e7ea (2007); 5f015a5b28 (removed the INVLPG exit)",
    since="2.6.20",
    locks={"mmu_lock": "held while a vCPU's own shadow is dropped"},
)
