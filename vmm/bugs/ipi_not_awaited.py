"""The IPIs of a TLB flush are sent, but not waited for.

vCPU 0 or host                         vCPU 1
runs the guest, the page in its TLB
clears the spte; requests a flush; sends an IPI
gives the page back
uses the page
takes the IPI, exits, flushes: too late
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.hw.pcpu import Pcpu
from vmm.vcpu import flush


class Flush(flush.Flush):
    """Goes on at once."""

    async def wait_for_acks(self, pcpus: tuple[Pcpu, ...]) -> None:
        """The fix waits until every vCPU that was interrupted has left the guest."""
        del pcpus


SPEC = Bug(
    title="a flush returns before the vCPUs that it interrupted have left the guest",
    year=2020,
    fix="FreeBSD rS367593",
    source="FreeBSD bhyve rS367593 (2020); KVM's rule is KVM_REQUEST_WAIT, vcpu-requests.rst",
    caught_by=("isolation/page-given-back",),
    seen="a guest reads or writes a page that the host has given to somebody else",
)
