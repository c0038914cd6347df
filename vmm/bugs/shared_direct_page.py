"""A write makes an spte writable inside a read-only direct page that others share.

vCPU 0 (writable large page, clean)    vCPU 1 (read-only large page of the same frames)
loads: links a direct page without W,
since a write must set D first
                                       loads: links the same direct page
stores: sets D; the direct page is
still linked: its spte gets W
                                       stores: goes through
"""

from __future__ import annotations

from vmm.bits import U, W
from vmm.bugs import Bug
from vmm.mmu import fault
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import Gfn


class PageFault(fault.PageFault):
    """Keeps a direct page once it is linked."""

    async def child_matches(self, child: ShadowPage, gfn: Gfn, role: Role) -> bool:
        """The fix drops a direct page of other rights, and links the right one."""
        header = await child.header
        if header is not None and header.role.direct and role.direct:
            header = header._replace(role=header.role._replace(access=W | U))
            role = role._replace(access=W | U)
        return header == (gfn, role)


SPEC = Bug(
    title="a writable spte is made in a read-only direct page that other mappings share",
    year=2010,
    fix="9e7b0e7fba45",
    source="KVM 9e7b0e7fba45 (2.6.36)",
    caught_by=("audit/spte-agrees",),
    seen="a guest writes through a read-only mapping of a large page",
)
