"""The dirty log takes W away under mmu_lock and flushes after its release.

host                                   vCPU 0                    vCPU 1
has frame g writable in its TLB
acquires mmu_lock; clears W of g; releases
shadows g, a new table:
W is clear already, so
nothing is flushed
writes g: no trap
flushes: too late
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.engine.ops import mark
from vmm.features import dirty_log
from vmm.features.dirty_log import DirtyLogRead


class Host(dirty_log.Host):
    """Reads the dirty log."""

    async def get_dirty_log(self) -> tuple[int, ...]:
        """The fix flushes before the release."""
        mmu = self.vm.mmu
        async with mmu.lock:
            gfns = await self.take_bitmap()
            lost = await self.write_protect(gfns)
        if lost:
            await mmu.flusher.flush_remote(None)
        await mark(DirtyLogRead(gfns))
        return gfns


SPEC = Bug(
    title="sptes lose W under mmu_lock, but are flushed after its release",
    year=2012,
    fix="6dbf79e7164e",
    source="KVM 6dbf79e7164e (3.4), introduced by 95d4c16ce78c",
    caught_by=("audit/write-protection",),
    needs=("dirty-log",),
    seen="a guest that is being migrated runs on page tables that KVM does not follow",
)
