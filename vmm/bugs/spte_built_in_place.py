"""An spte is built where it lies, bit by bit, in view of other vCPUs' walkers.

    vCPU 0 (maps table T, which is         vCPU 1 (same address space)
    shadowed, so must not be writable)
    spte := what the gpte grants, with W
                                           walks the shadow: finds W, stores to T: no trap
    T is shadowed: spte without W

With one vCPU nobody walks meanwhile.
"""

from __future__ import annotations

from vmm.bits import P, W
from vmm.bugs import Bug
from vmm.mmu import spte
from vmm.mmu.api import VcpuState
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import Pfn


class SetSpte(spte.SetSpte):
    """Stores first what the guest grants, then what may be granted."""

    async def install(
        self, me: VcpuState, page: ShadowPage, index: int, *, pfn: Pfn, rights: int, dirty: bool
    ) -> bool:
        """The fix builds the spte in a local variable. What follows here starts from no spte."""
        if not await page[index] & P:
            as_granted = spte.make_leaf(pfn, rights, writable=bool(rights & W) and dirty)
            await page.set_spte(index, as_granted)
            await page.set_spte(index, 0)
        return await super().install(me, page, index, pfn=pfn, rights=rights, dirty=dirty)


SPEC = Bug(
    title="an spte is built in place, writable at first, while other vCPUs walk the table",
    year=2007,
    fix="0d551bb698",
    source="KVM 0d551bb698, e663ee64ae (2.6.23, in preparation of SMP guests)",
    caught_by=("audit/write-protection",),
    seen="a write to a guest page table that does not trap, once in a very long while",
)
