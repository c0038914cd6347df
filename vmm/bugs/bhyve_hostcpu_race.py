"""Where a vCPU runs is written down only after it has said that it runs.

    vCPU 0                                 host
    mode0 := IN_GUEST; no requests
                                           requests0 |= TLB_FLUSH
                                           mode0 is IN_GUEST, but vcpu->cpu is none: no IPI
    vcpu->cpu := this pCPU
    enters; uses the page through its TLB
                                           has given it back

bhyve's ``hostcpu`` is none while the vCPU is outside the guest. State and place belong together,
and were not changed under one lock.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.engine.events import Event
from vmm.features import vcpu_migration
from vmm.features.vcpu_migration import NO_PCPU, migrating
from vmm.vcpu.vcpu import Vcpu


class RunLoop(vcpu_migration.RunLoop):
    """Writes the place down apart from the mode."""

    async def run_guest(self, vcpu: Vcpu) -> None:
        """The fix sets the place together with the mode, before the last look at the requests."""
        await migrating(vcpu).cpu.set(await migrating(vcpu).thread)
        await super().run_guest(vcpu)

    async def exit(self, vcpu: Vcpu, reason: str, *events: Event) -> None:
        """Out of the guest, and nowhere."""
        await super().exit(vcpu, reason, *events)
        await migrating(vcpu).cpu.set(NO_PCPU)


SPEC = Bug(
    title="a vCPU says that it runs before it says where, so that no IPI is sent",
    year=2013,
    fix="FreeBSD de4ccf451cbf",
    source="FreeBSD bhyve de4ccf451cbf (mirror freebsd-skq; race between VMRUN and a notification)",
    caught_by=("request/lost", "isolation/page-given-back"),
    needs=("vcpu-migration", "vcpu-mode"),
    seen="a vCPU learns of an event only at its next exit",
)
