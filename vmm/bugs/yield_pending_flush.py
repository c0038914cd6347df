"""mmu_lock is released within a range although what was zapped is not flushed yet.

host                                   another host thread        vCPU 0
has frame g in its TLB
acquires mmu_lock
zaps g: a flush is owed, later
releases mmu_lock
acquires mmu_lock
nothing maps g: no flush
releases; frees g
uses g through its TLB
acquires mmu_lock; zaps the rest
flushes: too late
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import lock_break
from vmm.units import Gfn


class Host(lock_break.Host):
    """Flushes once, at the end."""

    async def zap_range(self, first: int, frames: int) -> None:
        """The fix flushes before each break: others take an empty reverse map for a proof."""
        owed = False
        for gfn in range(first, first + frames):
            if gfn != first:
                await self.break_lock()
            owed = await self.vm.mmu.zap.drop_leaves(Gfn(gfn)) or owed
        if owed:
            await self.vm.mmu.zap.flush_zapped(None)


SPEC = Bug(
    title="mmu_lock is released while a flush is owed",
    year=2021,
    fix="a835429cda91",
    source="KVM a835429cda91, 048f49809c52 (5.12, a direct MMU); schedule reconstructed",
    caught_by=("isolation/page-given-back",),
    needs=("lock-break",),
    seen="a guest reads and writes host memory that was freed",
)
