"""A vCPU that flushes the others forgets itself.

vCPU 0                                 vCPU 1
maps frame g writable, in its TLB
faults elsewhere: shadows g as a page
table, takes W; asks vCPU 1 to flush
enters; writes g through its own TLB
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.vcpu import flush

if TYPE_CHECKING:
    from vmm.hw.pcpu import Pcpu
    from vmm.mmu.api import VcpuState


class Flush(flush.Flush):
    """Asks the others."""

    async def ask_all(self, me: VcpuState | None, request: int) -> None:
        """The right one makes the request of its own vCPU too."""
        interrupted: tuple[Pcpu, ...] = ()
        for vcpu in self.vcpus:
            if vcpu is not me:
                was_clear = await self.make_request(vcpu, request)
                if await self.needs_ipi(vcpu, was_clear=was_clear):
                    interrupted = (*interrupted, *await vcpu.pcpu.send_ipi())
        if interrupted:
            await self.wait_for_acks(interrupted)


SPEC = Bug(
    title="a remote flush leaves out the vCPU that asks for it",
    source="a mutant; KVM 40907d5768 (2007) flushes locally, d9e368d612 (2007) everywhere",
    points=("S29",),
    caught_by=("audit/write-protection",),
)
