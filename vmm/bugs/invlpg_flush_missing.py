"""INVLPG drops an spte and flushes only the TLB of the vCPU that says so.

    vCPU 0                                 host thread                vCPU 1
                                                                      has frame g in its TLB
    INVLPG: acquire mmu_lock
    drops the spte of g; release
                                           takes the host page of g:
                                           nothing in rmap[g], so
                                           nothing is flushed
                                           gives the page back
                                                                      reads g: somebody else's

The guest owes vCPU 1 an invalidation of its own, but until then only guest memory is at stake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import unsync
from vmm.mmu.shadow_page import ShadowPage

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class Shadowing(unsync.Shadowing):
    """Leaves other vCPUs to the guest."""

    async def drop_invalidated(self, vcpu: VcpuState, page: ShadowPage, index: int) -> None:
        """The fix flushes every vCPU before the lock is released."""
        await self.mmu.zap.drop_spte(page, 1, index)


SPEC = Bug(
    title="INVLPG empties the rmap of a frame that another TLB still maps",
    year=2009,
    fix="4539b35881",
    source="KVM 4539b35881 (2.6.30; fda28853bc4 in 2.6.29-stable); schedule reconstructed",
    caught_by=("isolation/page-given-back",),
    needs=("unsync", "notifier"),
)
