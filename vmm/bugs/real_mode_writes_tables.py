"""A vCPU without paging gets every frame mapped writable, shadowed page table or not.

    vCPU 0 (pages)                         vCPU 1 (paging off)
    faults: its leaf table T is shadowed,
    hence write-protected
                                           stores to T's frame: faults; the spte is made
                                           with W, nobody asks whether T is shadowed
                                           stores: no trap

Two vCPUs must be in different modes, as when a guest brings up its second processor.
"""

from __future__ import annotations

from vmm.bits import W
from vmm.bugs import Bug
from vmm.mmu import spte
from vmm.mmu.api import VcpuState
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import Pfn


class SetSpte(spte.SetSpte):
    """Maps memory itself, as opposed to what guest tables map, without a look."""

    async def install(
        self, me: VcpuState, page: ShadowPage, index: int, *, pfn: Pfn, rights: int, dirty: bool
    ) -> bool:
        """The fix asks for shadows of the frame in every mode."""
        header = await page.header
        if header is None or header.role.glevels:
            return await super().install(me, page, index, pfn=pfn, rights=rights, dirty=dirty)
        await self.replace(me, page, index, spte.make_leaf(pfn, rights, writable=bool(rights & W)))
        return False


SPEC = Bug(
    title="a vCPU in real mode maps shadowed page tables writable",
    year=2007,
    fix="e833240f3c",
    source="KVM e833240f3c (2.6.25); behaviour since 374cbac033 (2.6.20)",
    caught_by=("audit/write-protection",),
    seen="SMP guests that start a processor while another one pages run into stale mappings",
)
