"""Write protection finds no spte of a table and flushes nothing, although a TLB may write it.

vCPU 0                                 vCPU 1
                                       has frame g writable in its TLB
changes the gpte of g, loads cr3
sync: drops the spte of g; no flush
uses g as a page table: shadows it;
nothing in rmap[g], so nothing to
protect or to flush
                                       writes g: no trap
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.mmu import shadowing
from vmm.units import Gfn

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class Shadowing(shadowing.Shadowing):
    """Flushes for the sptes that it protects itself."""

    async def write_protect(self, me: VcpuState, gfn: Gfn) -> None:
        """The fix leaves nothing owed."""
        lost = False
        for ref in await self.mmu.rmap.chains[gfn]:
            lost = await self.clear_writable(ref) or lost
        if lost:
            await self.flush_protected(me)


SPEC = Bug(
    title="write protection does not know of sptes that a sync dropped without a flush",
    year=2021,
    fix="f81602958c11",
    source="KVM f81602958c11, 6bc6db000295 (5.15)",
    caught_by=("audit/write-protection",),
    needs=("flush-debt",),
    seen="a guest runs on page tables that KVM does not follow",
)
