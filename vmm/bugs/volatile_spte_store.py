"""An spte that a fast page fault may change is replaced by a plain store.

vCPU 0                                 vCPU 1
acquires mmu_lock; makes g a table
reads the spte of g: W = 0
                                       cmpxchg sets W; enters; stores: its TLB has W
stores the spte: W = 0
W was clear, so nothing is flushed
releases mmu_lock
                                       stores to g through its TLB: no trap
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import shadow_page


class ShadowPage(shadow_page.ShadowPage):
    """Takes what it has read for what it replaces."""

    async def exchange(self, index: int, old: int, new: int) -> int:
        """The fix exchanges, and gives what was there."""
        await self.set_spte(index, new)
        return old


SPEC = Bug(
    title="a volatile spte is stored to, and what changed since it was read is lost",
    year=2010,
    fix="a9221dd5ec12",
    source="KVM a9221dd5ec12 (2010); the flush that hangs on it: locking.rst (3.6)",
    caught_by=("audit/write-protection",),
    needs=("fast-page-fault",),
    seen="a guest that is being migrated runs on page tables that KVM does not follow",
)
