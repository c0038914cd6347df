"""A direct page that shadows a large guest page is reused as the shadow of a page table.

    vCPU 0                                 vCPU 1
    pde = 2M page at gfn G: a direct page for G is linked
    emulates store pde := page table in G
                                           walks the new pde and its gpte: gfn x
                                           acquires mmu_lock; reads the pde again: unchanged
                                           the child is present, and of gfn G: takes it
                                           maps x in the page that maps G + n; releases
    acquires mmu_lock; drops the link

KVM removed the spte of a direct page from the rmap of G + n, not of x: what rmap[x] holds outlived
the shadow page. Here the rmap follows the spte, so the wrong mapping is found, not the leak.

Derived from the fix and from the test that came with it. From the guest alone it takes this race,
with a writer that KVM does not see it takes none.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import fault
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import Gfn


class PageFault(fault.PageFault):
    """Tells children apart by their frames."""

    async def child_matches(self, child: ShadowPage, gfn: Gfn, role: Role) -> bool:
        """The fix compares the role too."""
        header = await child.header
        return header is not None and header.gfn == gfn


SPEC = Bug(
    title="a linked shadow page is reused although its role is another one",
    year=2026,
    fix="81ccda30b4e8",
    source="KVM 81ccda30b4e8 (7.2-rc1); behaviour since 2032a93d66fa (2.6.36)",
    caught_by=("audit/spte-agrees",),
    seen="a guest makes the host use a shadow page that was freed: an escape from the guest",
    cve="CVE-2026-53359",
)
