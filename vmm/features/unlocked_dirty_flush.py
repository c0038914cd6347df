"""The dirty log releases mmu_lock before it flushes.

    host (reads the dirty log)             vCPU 0 (shadows g)         vCPU 1
                                                                      has g writable in its TLB
    acquire mmu_lock
    clear W of g, leave MMU_WRITEABLE
    release mmu_lock
                                           acquire mmu_lock
                                           g: W = 0, MMU_WRITEABLE = 1
                                           clear MMU_WRITEABLE
                                           flush, wait                exits
                                           release mmu_lock
    flush, wait
    tell userspace: g

W = 0 no longer proves that no TLB has the frame writable. MMU_WRITEABLE = 0 does: it is only taken
by those who flush before they release the lock. So who protects a table looks at that bit.

Source: KVM 198c74f43f, 7f31c9595e (2014, 3.16).
"""

from __future__ import annotations

from vmm.engine.ops import mark
from vmm.features import Feature, fast_page_fault
from vmm.features.dirty_log import DirtyLogRead
from vmm.features.fast_page_fault import MMU_WRITEABLE


class Host(fast_page_fault.Host):
    """Userspace that migrates the guest, and does not stop it for long."""

    async def get_dirty_log(self) -> tuple[int, ...]:
        """The frames that were written since the last call; their mappings are read-only now."""
        mmu = self.vm.mmu
        async with mmu.lock:
            gfns = await self.take_bitmap()
            lost = await self.write_protect(gfns)
            owed = lost or await mmu.shadowing.flush_owed()
        if lost:
            await mark("dirty page write-protected")
        if owed:
            await mmu.flusher.flush_remote(None)
        await mark(DirtyLogRead(gfns))
        return gfns


class Shadowing(fast_page_fault.Shadowing):
    """Protects tables that may have lost W shortly before."""

    def needs_flush(self, replaced: int) -> bool:
        """Whether a TLB may hold more than what is left of an spte."""
        return bool(replaced & MMU_WRITEABLE)


SPEC = Feature(
    title="TLBs are flushed for the dirty log after mmu_lock is released",
    source="KVM 198c74f43f, 7f31c9595e (3.16)",
    since="3.16",
    eras=("5.15", "2026"),
    needs=("fast-page-fault",),
    locks={"mmu_lock": "held until W is clear; no longer until no TLB has it"},
)
