"""Who protects a table looks at W, although the dirty log flushes after it has released mmu_lock.

host                                   vCPU 0                    vCPU 1
has frame g writable in its TLB
acquires mmu_lock; clears W of g; releases
shadows g, a new table:
W is clear already, so
nothing is flushed
stores to g: no trap
flushes: too late
"""

from __future__ import annotations

from vmm.bits import W
from vmm.bugs import Bug
from vmm.features import unlocked_dirty_flush


class Shadowing(unlocked_dirty_flush.Shadowing):
    """Trusts in W."""

    def needs_flush(self, replaced: int) -> bool:
        """The fix looks at MMU_WRITEABLE."""
        return bool(replaced & W)


SPEC = Bug(
    title="a flush hangs on W, which the dirty log clears without having flushed",
    year=2014,
    fix="198c74f43f0f",
    source="KVM 198c74f43f0f, 7f31c9595e (3.16): what the flush must hang on",
    caught_by=("audit/write-protection",),
    needs=("unlocked-dirty-flush",),
    seen="a guest that is being migrated runs on page tables that KVM does not follow",
)
