"""INVLPG drops the TLB entry, and leaves the spte from which it is filled again.

vCPU 0                                 vCPU 1
writes a gpte of an unsync table
INVLPG: the TLB entry goes
uses the address: walks the old spte
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.engine.events import Event
from vmm.features import unsync
from vmm.units import Gva
from vmm.vcpu.vcpu import Vcpu


class RunLoop(unsync.RunLoop):
    """Invalidates what the processor has, not what KVM has."""

    async def invalidate(self, vcpu: Vcpu, gva: Gva, *events: Event) -> None:
        """The right one drops the spte first."""
        await vcpu.pcpu.invalidate(gva, *events)


SPEC = Bug(
    title="INVLPG does not reach the sptes of unsync pages",
    source="a mutant; KVM a7052897b3 (2.6.28) drops the spte",
    points=("S51",),
    caught_by=("architecture/translation",),
    needs=("unsync",),
    scenario="unsync",
)
