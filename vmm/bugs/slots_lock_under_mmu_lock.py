"""A slot is deleted with mmu_lock held from first to last, so that no fault comes in between.

    vCPU 0 (faults on frame g)             host thread (deletes the slot of g)
                                           acquire mmu_lock
                                           wants slots_lock: the order is broken
    srcu read lock
    wants mmu_lock: waits
                                           synchronize: waits for vCPU 0
    each waits for the other

slots_lock comes before mmu_lock, and who waits for readers holds nothing that a reader may want. A
run in which vCPU 0 faults earlier or later goes well, and breaks the order all the same.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import memslots
from vmm.features.memslots import Slot
from vmm.units import Gfn


class Host(memslots.Host):
    """One critical section over all that deletes a slot."""

    async def delete_slot(self, first: int) -> None:
        """The right one takes mmu_lock only to zap."""
        async with self.vm.mmu.lock:
            await super().delete_slot(first)

    async def flush_slot(self, slot: Slot) -> None:
        """As ever, but the lock is held already."""
        for gfn in range(slot.first, slot.first + slot.frames):
            await self.vm.mmu.zap.zap_leaves(None, Gfn(gfn))
            await self.vm.mmu.zap.zap_gfn(None, Gfn(gfn))


SPEC = Bug(
    title="slots_lock is taken by a host thread that holds mmu_lock",
    source="Documentation/virt/kvm/locking.rst (acquisition orders)",
    caught_by=("lock/order",),
    needs=("memslots",),
    scenario="memslot-delete",
)
