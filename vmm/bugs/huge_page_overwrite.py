"""A present spte is made to map another frame, and nobody flushes.

    vCPU 0                                 vCPU 1
                                           has frame g writable in its TLB
    gpte := h, emulated; acquires mmu_lock
    its spte maps h, was g; no flush
    releases
    shadows g, a new table: no spte maps
    it, so nothing is flushed
                                           writes g through its TLB: no trap

The reports have a large page that takes the place of a table of small ones; the rule is the same.
Derived: who finds an empty rmap trusts that no TLB holds the frame.
"""

from __future__ import annotations

from vmm.bits import P, frame_of
from vmm.bugs import Bug
from vmm.mmu import spte


class SetSpte(spte.SetSpte):
    """Flushes for rights that are lost, and for sptes that go."""

    def owes_flush(self, old: int, new: int) -> bool:
        """The fix flushes for another frame too."""
        if new & P and frame_of(old) != frame_of(new):
            return False
        return super().owes_flush(old, new)


SPEC = Bug(
    title="an spte is overwritten by one of another frame without a flush",
    year=2010,
    fix="3be2264be3c0",
    source="KVM 3be2264be3c0 (2.6.35), a doubt: R; related: 404381c5839d",
    caught_by=("audit/write-protection",),
    seen="an SMP guest runs on page tables that KVM does not follow",
)
