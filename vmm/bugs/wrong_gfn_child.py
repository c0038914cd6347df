"""The direct page of one large guest page is reused for another one.

    vCPU 0                                 vCPU 1
    pde = 2M page at gfn G: a direct page for G is linked
    emulates store pde := 2M page at gfn H
                                           walks the new pde: gfn x = H + n
                                           acquires mmu_lock; reads the pde again: unchanged
                                           a child is present: takes it
                                           maps x in the page that maps G + n; releases
    acquires mmu_lock; drops the link

KVM removed the spte from the rmap of G + n, not of x: what rmap[x] holds outlived the shadow page.
Here the rmap follows the spte, so the wrong mapping is found, not the leak. The report has a writer
that KVM does not see instead of the race. The fix compared the frame only: see januscape.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import fault
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import Gfn


class PageFault(fault.PageFault):
    """Follows every link."""

    async def child_matches(self, child: ShadowPage, gfn: Gfn, role: Role) -> bool:
        """The fix compares the frames."""
        del child, gfn, role
        return True


SPEC = Bug(
    title="a linked shadow page is reused although it shadows another frame",
    year=2026,
    fix="0cb2af2ea66a",
    source="KVM 0cb2af2ea66a (2026); behaviour since 2032a93d66fa (2.6.36), in other form 2.6.20",
    caught_by=("audit/spte-agrees",),
    seen="the host uses a shadow page that was freed, once a memslot is deleted",
    cve="CVE-2026-46113",
)
