"""The request is cleared after it was served, and with it one that came in between.

vCPU 0 (about to enter)                vCPU 1 or host
TLB_FLUSH is set: flushes
                                       changes an spte; sets TLB_FLUSH, sends an IPI
clears TLB_FLUSH
enters; takes the IPI, exits, enters:
nothing is requested
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.vcpu import run_loop
from vmm.vcpu.requests import TLB_FLUSH
from vmm.vcpu.vcpu import Vcpu


class RunLoop(run_loop.RunLoop):
    """Serves first."""

    async def serve_requests(self, vcpu: Vcpu) -> None:
        """The right one takes the request, then does what it asks for."""
        if await vcpu.requests & TLB_FLUSH:
            await vcpu.pcpu.flush()
        await vcpu.requests.set(0)


SPEC = Bug(
    title="a request that is made while the one before is served is lost",
    source="a mutant; vcpu-requests.rst (kvm_check_request clears first)",
    points=("S34",),
    caught_by=("audit/write-protection",),
    scenario="remote-flush-missing",
)
