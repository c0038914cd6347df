"""Loading CR3 flushes the TLB, and leaves the shadow as old as it was.

vCPU 0                                 vCPU 1
writes a gpte of an unsync table
loads CR3: TLB flushed, no sync
uses the address: walks the old spte
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.engine.events import EventSpec
from vmm.features import unsync
from vmm.mmu.api import VcpuState
from vmm.vcpu.requests import TLB_FLUSH


class Flush(unsync.Flush):
    """Flushes alone."""

    async def flush_local(self, me: VcpuState, *, event: EventSpec = None) -> None:
        """The right one requests a sync with the flush."""
        await self.make_request(self.vcpus[me.number], TLB_FLUSH, event=event)


SPEC = Bug(
    title="a CR3 load does not sync unsync pages",
    source="a mutant; KVM 0074ff63eb (2.6.28) syncs",
    points=("S51",),
    caught_by=("architecture/translation",),
    needs=("unsync",),
    scenario="unsync",
)
