"""The role of every shadow page takes the rights of the whole walk, also of the levels below it.

Two entries of one table, p writable and q read-only, name the same directory D. In D the entry r is
read-only, s is writable.

    vCPU 0                                 vCPU 1
    loads through p, r: D gets a shadow
    with the rights of p and r: no W
                                           loads through q, s: without W too, so q is
                                           given the same shadow of D
    stores through p, s: allowed; s gets W
    in the shadow of D that q shares
                                           stores through q, s: goes through

With the rights that are left over above D, p and q would never share its shadow. The link of p was
not looked at again (see wrong-gfn-child), so the store did not notice that its role had changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import U, W
from vmm.bugs import Bug
from vmm.hw.access import AccessKind, GuestFault
from vmm.mmu import fault, guest_walk
from vmm.mmu.guest_walk import GuestWalk
from vmm.mmu.role import Role
from vmm.units import Gfn, Gva

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.shadow_page import ShadowPage


class Walk(GuestWalk):
    """Makes the roles."""

    def shadow_key(self, level: int) -> tuple[Gfn, Role]:
        """The role of a table, with the rights of its own entry as well."""
        gfn, role = super().shadow_key(level)
        if role.direct or level == self.root.level:
            return gfn, role
        return gfn, role._replace(access=self.steps[-2].access)


class GuestWalker(guest_walk.GuestWalker):
    """Gives such walks."""

    async def walk(self, vcpu: VcpuState, gva: Gva, kind: AccessKind) -> GuestWalk | GuestFault:
        """The fix names each page after the rights above it, not those of the whole walk."""
        found = await super().walk(vcpu, gva, kind)
        return Walk(*found) if isinstance(found, GuestWalk) else found


class PageFault(fault.PageFault):
    """Keeps a page of any rights once it is linked."""

    async def child_matches(self, child: ShadowPage, gfn: Gfn, role: Role) -> bool:
        """Compares all but the rights."""
        header = await child.header
        return header is not None and (header.gfn, any_access(header.role)) == (
            gfn,
            any_access(role),
        )


def any_access(role: Role) -> Role:
    """The role, whatever its rights."""
    return role._replace(access=W | U)


SPEC = Bug(
    title="shadow pages are told apart by the rights of the whole walk, not of the levels above",
    year=2021,
    fix="b1bd5cba3306",
    source="KVM b1bd5cba3306 (5.13); since cea0f0e7ea54 (2.6.20); mechanism in part derived",
    caught_by=("audit/spte-agrees",),
    seen="a guest program writes what its kernel has mapped read-only for it",
    cve="CVE-2021-38198",
)
