"""An spte is installed from a gpte that was read before the guest table was write-protected.

    vCPU 0                                 vCPU 1
    faults; walks without the lock: X
                                           stores gpte = Y, untrapped: not shadowed yet
                                           faults in the same table: shadows and protects it
    acquires mmu_lock; the shadow page exists; installs the spte of X

Nothing corrects the spte any more: the table is protected and, as far as KVM knows, in sync.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import fault
from vmm.mmu.guest_walk import GuestWalk


class PageFault(fault.PageFault):
    """Trusts what the walk read."""

    async def gpte_unchanged(self, walk: GuestWalk, level: int) -> bool:
        """The fix reads the gpte again, under the lock, once its table is protected."""
        del walk, level
        return True


SPEC = Bug(
    title="spte installed from a gpte read before another vCPU shadowed the table",
    year=2008,
    fix="f7d9c7b7b902",
    source="KVM f7d9c7b7b902 (2.6.25), after 7819026eef",
    caught_by=("audit/spte-agrees", "architecture/translation"),
    seen="an SMP guest reads through a mapping that it has replaced, for good: memory corruption",
)
