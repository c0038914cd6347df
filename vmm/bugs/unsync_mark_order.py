"""A table becomes writable before it is marked.

    vCPU 0 (writes table T)                vCPU 1
    acquire mmu_lock
    map T writable
                                           stores a gpte of T: no trap
                                           loads cr3: nothing below the root is unsync
                                           uses the old translation
    T's shadow: unsync := 1; the marks above

The stores are made the wrong way round here: x86 keeps stores in order, so that on x86 a missing
barrier alone would show nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import unsync
from vmm.hw.access import AccessKind
from vmm.mmu.api import FaultResult
from vmm.mmu.guest_walk import GuestWalk
from vmm.mmu.shadow_page import ShadowPage
from vmm.mmu.spte import make_leaf
from vmm.units import Pfn, table_index

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class PageFault(unsync.PageFault):
    """Maps, then marks."""

    async def install_leaf(
        self, vcpu: VcpuState, page: ShadowPage, walk: GuestWalk, pfn: Pfn, kind: AccessKind
    ) -> FaultResult:
        """The fix marks first."""
        if kind.write:
            spte = make_leaf(pfn, walk.access, writable=True)
            await self.mmu.set_spte.replace(vcpu, page, table_index(walk.gva, 1), spte)
        return await super().install_leaf(vcpu, page, walk, pfn, kind)


SPEC = Bug(
    title="a table becomes writable before its shadow is marked as unsync",
    year=2018,
    fix="578e1c4db221",
    source="KVM 578e1c4db221 (4.19)",
    caught_by=("audit/write-protection", "architecture/translation"),
    needs=("unsync",),
    seen="a guest that has flushed runs on old translations",
)
