"""Requests are looked at for the last time before interrupts are off and the mode is published.

    vCPU 0                                 vCPU 1
                                           looks at its requests: none
    sets TLB_FLUSH in requests1
    mode1 is OUTSIDE: no IPI, no wait
                                           interrupts off; mode := IN_GUEST; enters
    takes the page away
                                           uses it through its TLB

The request stays unseen until the next exit, whenever that is.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import vcpu_mode
from vmm.vcpu.vcpu import Vcpu


class RunLoop(vcpu_mode.RunLoop):
    """Trusts the look that was taken with interrupts on."""

    async def may_enter(self, vcpu: Vcpu) -> bool:
        """The fix looks again, with interrupts off and the mode published."""
        del vcpu
        return True


SPEC = Bug(
    title="a request made between the last check and the entry stays unseen",
    year=2008,
    fix="d4acf7e7abe4",
    source="KVM d4acf7e7abe4 (2.6.26); the rule is in vcpu-requests.rst",
    caught_by=("request/lost", "isolation/page-given-back"),
    needs=("vcpu-mode",),
    seen="a guest interrupt or TLB flush is late by as long as the vCPU does not exit",
)
