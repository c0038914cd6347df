"""No barrier between publishing the mode and looking at the requests.

    vCPU 0                                 host
    mode0 := IN_GUEST (in its store buffer)
    requests0 is 0
                                           requests0 |= TLB_FLUSH
                                           mode0 is OUTSIDE: no IPI, no wait
                                           gives the page back
    the store of the mode reaches memory
    enters; uses the page through its TLB

Store buffers make it possible: the load of the requests is done before the store of the mode.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import vcpu_mode
from vmm.vcpu.vcpu import Mode, Vcpu


class RunLoop(vcpu_mode.RunLoop):
    """Stores the mode, and goes on."""

    async def publish_mode(self, vcpu: Vcpu) -> None:
        """The fix puts a full barrier behind the store."""
        await vcpu.mode.set(Mode.IN_GUEST_MODE)


SPEC = Bug(
    title="a vCPU reads its requests before its mode has reached memory",
    year=2011,
    fix="6b7e2d099148",
    source="KVM 6b7e2d099148 (2.6.39, explicit barrier); vcpu-requests.rst",
    caught_by=("request/lost", "isolation/page-given-back"),
    needs=("vcpu-mode",),
    seen="a TLB flush or a kick is missed once in a very long while",
)
