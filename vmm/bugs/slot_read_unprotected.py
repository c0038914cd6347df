"""A fault looks its memory slot up outside of an SRCU section.

vCPU 0 (faults on frame g)             host thread (deletes the slot of g)
finds the slot of g; resolves P
                                       publishes the slot as invalid; waits for readers: none
                                       zaps the sptes of g: there are none; frees the slot
installs the spte of P
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import memslots

if TYPE_CHECKING:
    from vmm.hw.access import AccessKind, GuestFault
    from vmm.mmu.api import FaultResult, VcpuState
    from vmm.units import Gva


class PageFault(memslots.PageFault):
    """Is not waited for."""

    async def page_fault(
        self, vcpu: VcpuState, gva: Gva, kind: AccessKind
    ) -> FaultResult | GuestFault:
        """The right one is a reader from the lookup until its spte is installed."""
        return await super(memslots.PageFault, self).page_fault(vcpu, gva, kind)


SPEC = Bug(
    title="faults are not in an SRCU section while they use a memory slot",
    source="a mutant; KVM bc6678a33d9b (2.6.34) reads under SRCU",
    points=("S17",),
    caught_by=("lifetime/memslot",),
    needs=("memslots",),
    scenario="memslot-delete",
)
