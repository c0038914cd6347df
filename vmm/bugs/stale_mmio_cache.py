"""What a vCPU found without memory is taken to be so for ever.

    vCPU 0 (accesses frame g)              host thread (makes a slot with g)
    finds no slot; keeps g
    exits to userspace
                                           publishes the slots with g; generation := 1
    accesses g again: it is kept
    exits to userspace, though g has memory

The report is of what a vCPU keeps beside the shadow; markers had their generation by then. Here
both are judged by the same step, so both are taken for current.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import mmio_sptes


class Memslots(mmio_sptes.Memslots):
    """Trusts what is kept."""

    async def is_current(self, generation: int) -> bool:
        """The fix compares the generations."""
        del generation
        return True


SPEC = Bug(
    title="a frame that got a memory slot is still taken for MMIO",
    year=2014,
    fix="56f17dd3fbc4",
    source="KVM 56f17dd3fbc4 (3.17)",
    caught_by=("mmio/memory-there",),
    needs=("mmio-sptes",),
    seen="userspace is told of accesses to devices that it does not have; the guest is stopped",
)
