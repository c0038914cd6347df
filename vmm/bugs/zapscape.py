"""A fault finds its root good, then recycles pages, that very root among them, and goes on.

    vCPU 0 (another root R leads to T)     vCPU 1 (runs on root T)
    ran on R; runs elsewhere now
                                           faults; acquires mmu_lock
                                           T is neither invalid nor obsolete: good
                                           too few pages are free: zaps R, the oldest, and with
                                           it T, its orphan: invalid, off the active list
                                           descends from T: makes page C below it, invalid as T
                                           is, but put on the active list as new pages are
                                           releases mmu_lock
                                           frees T; zaps C with it: an invalid page, so nobody
                                           takes it off the list: free, and on the list
                                           who recycles next zaps a page of somebody else

vCPU 0 is needed only for R; one task does the rest. Wrong since 2008 (2e53d63acba7), of no
consequence before invalid pages left the list (f95eec9bed76, 2020).
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import stale_root
from vmm.hw.access import AccessKind
from vmm.mmu.api import FaultResult, VcpuState
from vmm.mmu.guest_walk import GuestWalk
from vmm.mmu.memslots import HostPage
from vmm.units import Gva


class PageFault(stale_root.PageFault):
    """Looks at the root too early."""

    async def map(
        self, vcpu: VcpuState, walk: GuestWalk, page: HostPage, kind: AccessKind
    ) -> FaultResult:
        """The fix recycles first, and looks at the root then."""
        if await super().root_is_stale(vcpu, walk.gva):
            return FaultResult.RESUME
        return await super().map(vcpu, walk, page, kind)

    async def root_is_stale(self, vcpu: VcpuState, gva: Gva) -> bool:
        """It was good before."""
        return False


SPEC = Bug(
    title="pages are built below a root that recycling has just zapped",
    year=2026,
    fix="2abd5287f083",
    source='KVM 2abd5287f083 (7.2-rc5), CVE-2026-64561 ("Zapscape")',
    caught_by=("audit/cache-lists", "audit/pool-exact"),
    needs=("stale-root", "orphan-zap", "long-mode-sharing"),
    seen="a guest makes the host use a shadow page that was freed, and escapes",
    cve="CVE-2026-64561",
)
