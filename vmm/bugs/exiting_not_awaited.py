"""A vCPU that is on its way out already is taken for one that is out.

vCPU 0 (flushes)                       vCPU 1 (in the guest)
                                       somebody kicks it: EXITING, an IPI is under way
changes an spte; TLB_FLUSH of vCPU 1:
EXITING, so no IPI, no wait
frees what the spte led to
                                       still uses it: the IPI has not arrived
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import vcpu_mode
from vmm.vcpu.vcpu import Mode, Vcpu


class Flush(vcpu_mode.Flush):
    """Waits for nobody who was kicked."""

    async def needs_ipi(self, vcpu: Vcpu, *, was_clear: bool) -> bool:
        """The right one waits for a vCPU in any mode but OUTSIDE."""
        before = await vcpu.mode.update(_exiting)
        return before not in (Mode.OUTSIDE_GUEST_MODE, Mode.EXITING_GUEST_MODE)


def _exiting(mode: Mode) -> tuple[Mode, Mode]:
    return (Mode.EXITING_GUEST_MODE if mode is Mode.IN_GUEST_MODE else mode), mode


SPEC = Bug(
    title="a flush does not wait for a vCPU that somebody has kicked",
    source="a mutant; KVM 6b7e2d0991 (2.6.39): EXITING spares a kick, not a wait",
    points=("S37",),
    caught_by=("isolation/page-given-back",),
    needs=("vcpu-mode",),
    scenario="early-request-check",
)
