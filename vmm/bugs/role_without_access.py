"""Large guest pages of the same frames share one shadow page, whatever each may do.

    vCPU 0 (its large page is writable)    vCPU 1 (its large page is read-only)
    stores: makes a direct page for the
    frames, with a writable spte
                                           faults in its large page: the direct page for
                                           these frames is there, and is linked
                                           stores: goes through

Or the other way round: what may be written is shadowed by what may not, and the store faults again
and again.
"""

from __future__ import annotations

from vmm.bits import U, W
from vmm.bugs import Bug
from vmm.mmu import fault, shadowing
from vmm.mmu.api import VcpuState
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import Gfn


class Shadowing(shadowing.Shadowing):
    """Finds and makes direct pages by their frames alone."""

    async def get_page(self, me: VcpuState, gfn: Gfn, role: Role) -> ShadowPage:
        """The fix puts the rights of the walk into the role."""
        return await super().get_page(me, gfn, without_access(role))


class PageFault(fault.PageFault):
    """Takes a linked page for the right one by the same measure."""

    async def child_matches(self, child: ShadowPage, gfn: Gfn, role: Role) -> bool:
        """Whether a linked child maps the frames that the walk found."""
        return await super().child_matches(child, gfn, without_access(role))


def without_access(role: Role) -> Role:
    """The role as it was: the page of a large page's frames said nothing of its rights."""
    return role._replace(access=W | U) if role.direct else role


SPEC = Bug(
    title="the shadow of a large page does not depend on what may be done through it",
    year=2007,
    fix="d28c6cfbbc",
    source="KVM d28c6cfbbc (2.6.22); behaviour since cea0f0e7ea (2.6.20)",
    caught_by=("audit/spte-agrees", "architecture/translation"),
    seen="a guest writes through a read-only mapping, or faults for ever on a writable one",
)
