"""Permissions of sptes are reduced, but only the local TLB is flushed.

    vCPU 0                                 vCPU 1
                                           holds a writable translation of frame g
    acquires mmu_lock; g becomes a guest table: clears W of every spte of g
    flushes its own TLB only; releases
                                           writes g through the stale entry: no trap

The guest table changes and its shadow does not follow. After a zap, a stale translation or a walk
under way reaches a page that was given back.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu.api import VcpuState
from vmm.vcpu import flush


class Flush(flush.Flush):
    """Flushes the acting vCPU."""

    async def flush_remote(self, me: VcpuState | None) -> None:
        """The fix sets the request of every vCPU, interrupts the others and waits for them."""
        if me is not None:
            await self.flush_local(me)


SPEC = Bug(
    title="a permission taken from an spte is flushed from the local TLB only",
    year=2007,
    fix="d9e368d61263",
    source='KVM d9e368d61263 (2.6.23), "Flush remote tlbs when reducing shadow pte permissions"',
    caught_by=(
        "audit/write-protection",
        "isolation/page-given-back",
        "audit/spte-agrees",
        "architecture/translation",
        "lifetime/freed-under-walk",
    ),
    seen="SMP guests crash or corrupt memory soon after the second CPU is up",
)
