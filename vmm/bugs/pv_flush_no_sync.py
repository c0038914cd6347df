"""A flush for the guest drops the TLB, which is filled again from an old spte.

vCPU 0                                 vCPU 1
                                       scheduled out: byte1 := PREEMPTED
stores a gpte of an unsync table:
no trap
byte1 := PREEMPTED | FLUSH_TLB
                                       scheduled in; sees FLUSH_TLB: flushes its TLB
                                       walks the shadow, which is older than the gpte
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import pv_flush

if TYPE_CHECKING:
    from vmm.vcpu.vcpu import Vcpu


class RunLoop(pv_flush.RunLoop):
    """Flushes, and no more."""

    async def flush_for_guest(self, vcpu: Vcpu) -> None:
        """The fix syncs the shadow first."""
        await vcpu.pcpu.flush()


SPEC = Bug(
    title="a paravirtual flush leaves the shadow as it is",
    year=2021,
    fix="b53e84eed08b",
    source="KVM b53e84eed08b (5.13); since f38a7b75267f (4.16)",
    caught_by=("architecture/translation",),
    needs=("pv-flush",),
    seen="a guest on shadow paging uses pages that it has unmapped and flushed",
)
