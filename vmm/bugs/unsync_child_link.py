"""A link is made to a page with unsync pages below it, to be synced before the next entry only.

    vCPU 0                                 vCPU 1 (same root)
    store: an entry of T, which is unsync
    store: an upper entry, so far not
    present, leads to T's parent
    faults below it: finds the shadow of
    T's parent, links it
    request to itself: MMU_SYNC
                                           walks the new link, and T's old spte
    syncs before it enters

From not present to present needs no invalidation: nobody could hold a translation through the new
entry, so vCPU 1 may only see what T says now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import unsync
from vmm.features.mmu_reload import flusher_of
from vmm.features.unsync import shadowing_of, unsync_page
from vmm.mmu.shadow_page import ShadowPage
from vmm.vcpu.requests import MMU_SYNC

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class PageFault(unsync.PageFault):
    """Links first."""

    async def link(self, vcpu: VcpuState, page: ShadowPage, index: int, child: ShadowPage) -> None:
        """Mark what is above by now, and leave the sync to a request."""
        await super().link(vcpu, page, index, child)
        if await unsync_page(child).unsync_children:
            await shadowing_of(self.mmu).mark_parents(child)
            flusher = flusher_of(self.mmu)
            await flusher.make_request(flusher.vcpus[vcpu.number], MMU_SYNC)

    async def sync_before_link(self, vcpu: VcpuState, child: ShadowPage) -> None:
        """The fix syncs here."""


SPEC = Bug(
    title="a page is linked although pages below it are unsync",
    year=2021,
    fix="65855ed8b034",
    source="KVM 65855ed8b034 (5.15)",
    caught_by=("architecture/translation",),
    needs=("unsync",),
    seen="a guest reads through mappings that it has replaced before it could have used them",
)
