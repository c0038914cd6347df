"""A frame is logged by a plain read and a plain store of the bitmap's word.

    vCPU 0 (fault, holds mmu_lock)         vCPU 1 (emulated store, no lock)
                                           reads the bitmap: no bit set
    reads the bitmap: no bit set
    sets the bit of its frame
                                           stores the bitmap with the bit of its own frame only
    writes the page: it is not in the log

mmu_lock does not help: an emulated store logs its frame before it takes the lock.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import dirty_log
from vmm.units import with_number


class Memslots(dirty_log.Memslots):
    """Sets bits as generic___set_le_bit did."""

    async def mark_dirty(self, gfn: int) -> None:
        """The fix is a locked instruction (set_bit_le)."""
        gfns = await self.dirty
        if gfn not in gfns:
            await self.dirty.set(with_number(gfns, gfn))


SPEC = Bug(
    title="two vCPUs set dirty bits in one word at once, and one bit is lost",
    year=2009,
    fix="60c34612b707",
    source="KVM 60c34612b707 (3.4); since 2.6.33, whose commit (c8240bd6f0) is a doubt: recalled",
    caught_by=("race/plain-access", "dirty-log/write-lost"),
    needs=("dirty-log",),
    seen="a migrated guest finds old contents in a page",
)
