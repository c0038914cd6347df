"""A fault that gives up after reading the gpte again leaves its parent link behind.

    vCPU 0                                 vCPU 1
    walk: the gpte of DATA is X
                                           stores gpte = Y
    acquires mmu_lock
    gets the shadow of the table; records the parent spte in it
    reads the gpte again: Y, gives up; the parent spte stays empty
    releases mmu_lock

The page now believes that an spte points to it which does not. When the page is zapped, that spte
is cleared, whatever it has become by then.
"""

from __future__ import annotations

from vmm.bits import P
from vmm.bugs import Bug
from vmm.mmu import fault
from vmm.mmu.api import VcpuState
from vmm.mmu.guest_walk import GuestWalk
from vmm.mmu.shadow_page import ShadowPage, SpteRef, add_ref
from vmm.units import table_index


class PageFault(fault.PageFault):
    """Records the parent when it gets the page, not when it links it."""

    async def descend(
        self, vcpu: VcpuState, page: ShadowPage, walk: GuestWalk, level: int
    ) -> tuple[ShadowPage, bool]:
        """The fix takes the parent out again if the gpte has changed."""
        child, unchanged = await super().descend(vcpu, page, walk, level)
        index = table_index(walk.gva, level)
        if not unchanged and not await page[index] & P:
            await child.parents.update(add_ref, SpteRef(page.number, index))
        return child, unchanged


SPEC = Bug(
    title="a fault that finds its gpte changed leaves a parent link to an spte that it never wrote",
    year=2008,
    fix="6c475352e87",
    source="KVM 6c475352e87 (2.6.28); behaviour since 7819026eef (2.6.25)",
    caught_by=("audit/parent-links",),
    seen="shadow pages with dangling parents, and the oops that follows when they are zapped",
)
