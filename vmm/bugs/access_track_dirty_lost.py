"""An spte is tracked, and with W goes what it knew of the page.

vCPU 0                                 host
writes g through a writable spte
ages g: the spte is tracked, W = 0
takes g: its spte never had W, so it is clean
throws away what was written
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import access_tracking
from vmm.features.access_tracking import is_tracked, make_tracked
from vmm.mmu.shadow_page import SpteRef


class Host(access_tracking.Host):
    """Ages without a look at W."""

    async def track(self, ref: SpteRef) -> bool:
        """The right one tells that the page was written, if it may have been."""
        page = self.vm.mmu.cache.pages[ref.page]
        spte = await page[ref.index]
        if is_tracked(spte):
            return False
        await page.exchange(ref.index, spte, make_tracked(spte))
        return True


SPEC = Bug(
    title="a page is taken for clean since its spte was made to be tracked",
    source="KVM f160c7b7bb32 (4.11) tells of dirty pages at this point; a mutant of it",
    caught_by=("dirty/lost",),
    needs=("access-tracking",),
)
