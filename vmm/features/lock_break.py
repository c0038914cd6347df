"""Lock breaks: who unmaps a long range lets others have mmu_lock on the way.

    host (unmaps frames g and h)           vCPU 0                     another host thread
    start: acquire mmu_lock; ++count
    zap every spte of g; flush, wait       exits
    release mmu_lock (the lock break)
                                                                      acquire mmu_lock
                                                                      no spte maps g: no flush
                                                                      release; frees g
    acquire mmu_lock; goes on with h
    zap every spte of h; flush
    release mmu_lock

Two things are owed to others at a lock break. They will take an empty reverse map for a proof that
no TLB has the frame, so what was zapped is flushed before the release. And they may change what the
loop goes through, so it holds on to nothing but the frame that comes next.

Faults stay out of the range meanwhile: the count of the notifier is up.

Departs from KVM: the lock is always released between two frames, not only when somebody waits, so
each is flushed by itself.

Source: KVM, kvm_unmap_gfn_range honours NEED_RESCHED (2024; a doubt: the version, 6.13, is
recalled); the loop with its flush is older (zapping a range of gfns, 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.features import Feature, notifier

if TYPE_CHECKING:
    from vmm.mmu.mmu import ShadowMmu


class Host(notifier.Host):
    """A host that takes ranges of pages."""

    async def zap_range(self, first: int, frames: int) -> None:
        """Unmap the frames of a range. Holds: mmu_lock, released between frames."""
        gfn, end = first, first + frames
        while gfn < end:
            await super().zap_range(gfn, 1)  # with its flush: others may trust in what they find
            gfn += 1
            if gfn < end:
                await self.break_lock()
                gfn = await self.go_on_with(gfn)

    async def break_lock(self) -> None:
        """Let others have mmu_lock between two frames."""
        await break_lock(self.vm.mmu)
        await mark("lock released within a range")

    async def go_on_with(self, gfn: int) -> int:
        """The frame to go on with after a lock break: the one that was to come."""
        return gfn


async def break_lock(mmu: ShadowMmu) -> None:
    """Let others have mmu_lock (KVM: cond_resched_lock). Nothing read before holds after it."""
    await mmu.lock.release()
    await mmu.lock.acquire()


SPEC = Feature(
    title="mmu_lock is released between the frames of a range that the host takes",
    source="KVM 6.13 (2024, kvm_unmap_gfn_range may yield)",
    since="6.13",
    eras=("2026",),
    needs=("notifier",),
    locks={"mmu_lock": "released within a range, after a flush"},
)
