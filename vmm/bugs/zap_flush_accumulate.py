"""Whether a flush is owed for a range is what its last part says.

    host                                   vCPU 0
                                           runs the guest, frame g in its TLB
    start: acquires mmu_lock
    zaps g: a flush is owed
    zaps g + 1: not mapped, none is owed
    flushes nothing; releases
    frees the page of g
                                           uses it through its TLB

The bug of 2022 went through the roots of a direct MMU, not through frames; the loop is the same.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import notifier
from vmm.units import Gfn


class Host(notifier.Host):
    """A host that takes a range."""

    async def zap_range(self, first: int, frames: int) -> None:
        """The fix keeps what the parts before have said."""
        owed = False
        for gfn in range(first, first + frames):
            owed = await self.vm.mmu.zap.drop_leaves(Gfn(gfn))
        if owed:
            await self.vm.mmu.zap.flush_zapped(None)


SPEC = Bug(
    title="the flush that a range owes is forgotten if its last part owes none",
    year=2022,
    fix="873dd122172f",
    source="KVM cf3e26427c08 (5.18-rc1), reverted by 873dd122172f; landed again, mended",
    caught_by=("isolation/page-given-back",),
    needs=("notifier",),
    seen="guests crash while the host merges their pages (KSM)",
)
