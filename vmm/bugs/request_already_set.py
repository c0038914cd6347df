"""A request that is made already is taken for one that somebody waits for.

    host                                   vCPU 0
                                           outside the guest
    zaps page S: TLB_FLUSH of vCPU 0,
    which is outside: no IPI, no wait
                                           mode0 := READING; interrupts off
                                           reads an spte: points to page T
    unlinks T; TLB_FLUSH is set already:
    no IPI, no wait
    frees T
                                           reads T

That a bit is set says that somebody asked, not that the vCPU was, or still is, out of the way. In
2009 the harm came from requesters that shared no lock: one returned while the other had not sent
its IPI yet. Here all requesters hold mmu_lock, and the walk takes the other's place. Derived.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import vcpu_mode
from vmm.vcpu.vcpu import Vcpu


class Flush(vcpu_mode.Flush):
    """Leaves a vCPU alone that was asked before."""

    async def needs_ipi(self, vcpu: Vcpu, *, was_clear: bool) -> bool:
        """The fix asks the mode, whether or not the request was made before."""
        return was_clear and await super().needs_ipi(vcpu, was_clear=was_clear)


SPEC = Bug(
    title="a requester does not wait for a vCPU whose request was set before",
    year=2009,
    fix="84261923d3dd",
    source="KVM 84261923d3dd (2.6.31), a doubt: R; that a set bit is no reason is in 6b7e2d099148",
    caught_by=("lifetime/freed-under-walk", "isolation/page-given-back"),
    needs=("lockless-walk",),
    seen="a vCPU uses a page table that was freed",
)
