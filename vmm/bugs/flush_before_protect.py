"""Write protection flushes the TLBs first and clears W afterwards.

    vCPU 0 (shadows table T)               vCPU 1
    acquires mmu_lock
    flushes all TLBs, waits for vCPU 1
                                           enters again, stores to T: a walk finds W,
                                           and the TLB keeps it
    clears W of every spte of T
    releases mmu_lock: T counts as protected
                                           stores to T through its TLB: no trap

Harmless with one vCPU, which was when the order was written down (40907d5768).
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import shadowing
from vmm.mmu.api import VcpuState
from vmm.units import Gfn


class Shadowing(shadowing.Shadowing):
    """Flushes too early."""

    async def write_protect(self, me: VcpuState, gfn: Gfn) -> None:
        """The fix flushes once no spte has W any more."""
        refs = await self.mmu.rmap.chains[gfn]
        if refs:
            await self.flush_protected(me)
        for ref in refs:
            await self.clear_writable(ref)


SPEC = Bug(
    title="TLBs are flushed before W is taken from the sptes of a new guest table",
    year=2007,
    fix="88a97f0b2f",
    source='KVM 88a97f0b2f (2.6.23), "Fix Wrong tlb flush order"; order since 40907d5768 (2.6.20)',
    caught_by=("audit/write-protection",),
    seen="a guest table changes and its shadow does not: memory corruption in an SMP guest",
)
