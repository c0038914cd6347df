"""The bitmap is copied for userspace first, and cleared later.

host                                   vCPU 0
copies the bitmap: g is not in it
writes g: faults; g is logged; W granted
writes g
acquires mmu_lock
clears W, flushes, clears the bitmap: g is gone
releases
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.engine.ops import mark
from vmm.features import dirty_log
from vmm.features.dirty_log import DirtyLogRead, Gfns, slots_of


class Host(dirty_log.Host):
    """Reads the dirty log."""

    async def get_dirty_log(self) -> tuple[int, ...]:
        """The fix takes the bitmap and empties it in one step."""
        mmu, dirty = self.vm.mmu, slots_of(self.vm.mmu).dirty
        gfns = await dirty.update(_copy)  # locked, so that the order alone is wrong
        async with mmu.lock:
            if await self.write_protect(await dirty.update(_copy)):
                await mmu.flusher.flush_remote(None)
            await dirty.update(_clear)
        await mark(DirtyLogRead(gfns))
        return gfns


def _copy(gfns: Gfns) -> tuple[Gfns, Gfns]:
    return gfns, gfns


def _clear(gfns: Gfns) -> tuple[Gfns, None]:
    del gfns
    return (), None


SPEC = Bug(
    title="a page that is logged between the copy and the clearing of the bitmap is lost",
    year=2007,
    fix="95d4c16ce78c",
    source="KVM 90cb0529dd (2.6.23); ended by the atomic bitmap of 95d4c16ce78c (3.4), a doubt: R",
    caught_by=("dirty-log/write-lost",),
    needs=("dirty-log",),
    seen="a migrated guest finds old contents in a page",
)
