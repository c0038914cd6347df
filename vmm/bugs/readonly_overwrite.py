"""A writable spte is overwritten by a read-only one, and nobody flushes.

    vCPU 0                                 vCPU 1
                                           has frame g writable in its TLB
    acquires mmu_lock; its spte of g was
    writable, is read-only; no flush
    releases
    shadows g, a new table: its spte is
    read-only, so nothing is flushed
                                           writes g through its TLB: no trap

In the report a slow read fault overwrote what a write fault had installed meanwhile. Here a fault
reads its gpte again, so that it takes a gpte that the guest makes read-only. What follows is the
same: who finds W clear trusts that no TLB has it.
"""

from __future__ import annotations

from vmm.bits import P, W, frame_of
from vmm.bugs import Bug
from vmm.mmu import spte


class SetSpte(spte.SetSpte):
    """Flushes for sptes that go, and for frames."""

    def owes_flush(self, old: int, new: int) -> bool:
        """The fix flushes when W is lost too."""
        if new & P and frame_of(old) == frame_of(new) and old & W and not new & W:
            return False
        return super().owes_flush(old, new)


SPEC = Bug(
    title="a writable spte is overwritten by a read-only one without a flush",
    year=2010,
    fix="2.6.37 or near",
    source='KVM "flush TLBs on writable->read-only spte overwrite", a doubt: title recalled (R)',
    caught_by=("audit/write-protection",),
    seen="an SMP guest runs on page tables that KVM does not follow",
)
