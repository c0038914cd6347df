"""The flush is deferred to the end of the zap, but the tables are freed at once.

vCPU 0 or host                         pCPU 1
reads an upper entry: points to table T
unlinks T; frees T
reads T, which is somebody else's by now
flushes: too late
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import two_phase_zap
from vmm.features.two_phase_zap import Prepared
from vmm.mmu.api import VcpuState


class Zap(two_phase_zap.Zap):
    """Frees first."""

    async def commit(self, me: VcpuState | None, prepared: Prepared) -> None:
        """The fix flushes before any page goes back."""
        for page, header in prepared:
            await self.mmu.cache.remove(page, header)
        if prepared:
            await self.flush_zapped(me)


SPEC = Bug(
    title="paging structures are freed before the flush that keeps processors out of them",
    year=2026,
    fix="CVE-2026-23554",
    source="Xen CVE-2026-23554 (EPT); KVM's order is that of 7775834a23",
    caught_by=("isolation/page-given-back", "lifetime/freed-under-walk"),
    needs=("two-phase-zap",),
    seen="a guest reaches memory through a page table that was freed",
    cve="CVE-2026-23554",
)
