"""After a lock break the loop over a range goes on behind the frame that it has not zapped yet.

host                                   vCPU 0
maps frames g and g + 1
acquires mmu_lock; zaps g; flushes
releases, acquires: a lock break
restarts at g + 1, and steps on
releases mmu_lock
frees g and g + 1
uses g + 1
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import lock_break


class Host(lock_break.Host):
    """Steps on, whether or not the lock was released."""

    async def go_on_with(self, gfn: int) -> int:
        """The fix does not step on after a restart."""
        return gfn + 1


SPEC = Bug(
    title="a frame is passed over when a loop goes on after a lock break",
    year=2021,
    fix="3a0f64de479c",
    source="KVM 3a0f64de479c (5.16-rc7, a direct MMU); schedule reconstructed",
    caught_by=("isolation/page-given-back",),
    needs=("lock-break",),
    seen="a guest reads and writes host memory that was freed",
    cve="CVE-2021-47094",
)
