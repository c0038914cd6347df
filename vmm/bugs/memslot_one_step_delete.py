"""A memory slot is deleted in one step, while it can still be found.

    vCPU 0 (faults on frame g)             host thread (deletes the slot of g)
    finds the slot of g; resolves P
                                           acquires mmu_lock; zaps g, flushes; releases
    acquires mmu_lock; installs the spte of P
                                           publishes the slots without that of g
                                           unmaps P: no slot, so no rmap to look in; frees P
    uses P, which is somebody else's

The fix marks the slot invalid first, which stops new sptes, and waits for those who found it
before.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import memslots
from vmm.features.memslots import Slot


class Host(memslots.Host):
    """Zaps at once."""

    async def invalidate_slot(self, slot: Slot) -> None:
        """The fix publishes the slot as invalid, and drains its readers."""


SPEC = Bug(
    title="a fault maps a memory slot between its zapping and its deletion",
    year=2009,
    fix="bc6678a33d9b",
    source="KVM bc6678a33d9b (2.6.34)",
    caught_by=("lifetime/memslot",),
    needs=("memslots",),
    seen="the guest has memory that userspace took away and gave to somebody else",
)
