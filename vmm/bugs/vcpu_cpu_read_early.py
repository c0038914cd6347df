"""Where a vCPU is, is looked up before the request is made of it.

    vCPU 0                                 host
    runs on pCPU 0
                                           cpu = vcpu->cpu: pCPU 0
    exits; moves to pCPU 1; no requests
    enters
                                           requests0 |= MMU_RELOAD
                                           IPI to pCPU 0, which takes it: acknowledged
    runs on with the request unseen

A TLB flush survives it, since a vCPU that moves flushes anyway. Other requests do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import mmu_reload
from vmm.features.vcpu_migration import current, migrating

if TYPE_CHECKING:
    from vmm.hw.pcpu import Pcpu
    from vmm.mmu.api import VcpuState


class Flush(mmu_reload.Flush):
    """Looks for everybody first."""

    async def ask_all(self, me: VcpuState | None, request: int) -> None:
        """The right one reads vcpu->cpu once, and after the request is made."""
        places: tuple[Pcpu, ...] = ()
        for vcpu in self.vcpus:
            places = (*places, current(migrating(vcpu)).pcpus[await migrating(vcpu).cpu])
        interrupted: tuple[Pcpu, ...] = ()
        for vcpu, place in zip(self.vcpus, places, strict=True):
            was_clear = await self.make_request(vcpu, request)
            if vcpu is not me and await self.needs_ipi(vcpu, was_clear=was_clear):
                interrupted = (*interrupted, *await place.send_ipi())
        if interrupted:
            await self.wait_for_acks(interrupted)


SPEC = Bug(
    title="an IPI goes to the pCPU on which the vCPU was before the request was made",
    source="a mutant; KVM's kvm_make_vcpu_request reads vcpu->cpu once, after the request",
    points=("S41",),
    caught_by=("request/lost", "lifetime/invalid-page-walked"),
    needs=("vcpu-migration", "mmu-reload"),
)
