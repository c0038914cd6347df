"""A new shadow page is filled from its table before the table is write-protected.

    vCPU 0                                 vCPU 1
    acquires mmu_lock; makes the shadow
    page of T; reads gpte k: X; installs it
                                           stores gpte k = Y: T is still writable, no trap
    write-protects T; releases
                                           uses k: walks the spte of X

The other vCPU needs no lock to store, so that it comes in between although all of this is one
critical section. Only the gpte of the fault itself is read again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import prefetch

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.role import Role
    from vmm.mmu.shadow_page import ShadowPage
    from vmm.units import Gfn


class Shadowing(prefetch.Shadowing):
    """Fills, then protects."""

    async def get_page(self, me: VcpuState, gfn: Gfn, role: Role) -> ShadowPage:
        """The fix write-protects the table, then fills its page."""
        page = await self.mmu.cache.find(gfn, role)
        if page is None:
            page = await self.mmu.cache.insert(gfn, role)
            await self.prefetch(me, page, gfn, role)
            if not role.direct:
                await self.write_protect(me, gfn)
        return page


SPEC = Bug(
    title="sptes are filled in from a table that the guest can still write untrapped",
    year=2008,
    fix="ad86b6c36bbb",
    source="KVM ad86b6c36bbb (2.6.26)",
    caught_by=("audit/spte-agrees",),
    needs=("prefetch",),
    seen="an SMP guest hangs in page faults that it has already handled",
)
