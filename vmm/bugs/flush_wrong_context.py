"""The flush that a MOV CR3 owes is done at once, on what is loaded before it.

vCPU 0                                 guest's tables
in A, PCID 1; B's page is cached under PCID 2
                                       B's entry is rewritten
MOV CR3: B, PCID 2
flushes what is loaded: PCID 1
the root of B again
uses B's page as PCID 2 has it cached
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import pcid
from vmm.hw.events import RegistersWritten
from vmm.vcpu.flush import flusher_of
from vmm.vcpu.requests import MMU_SYNC


class Roots(pcid.Roots):
    """Flushes, then switches."""

    async def switch_space(self, vcpu: pcid.Vcpu, written: RegistersWritten) -> None:
        """The fix makes a request of the flush, to be served once the root is loaded."""
        if not written.keeps:
            await pcid.flush_current(vcpu)
        await self.exchange(vcpu, written)
        if not written.keeps:
            await flusher_of(vcpu.mmu).make_request(vcpu, MMU_SYNC)


SPEC = Bug(
    title="a flush of the current context is done before the context is switched",
    year=2018,
    fix="1438921c6dc1",
    source="KVM 1438921c6dc1 (4.20)",
    points=("S42",),
    caught_by=("architecture/translation",),
    needs=("pcid",),
    seen="a guest process meets memory that it had unmapped",
)
