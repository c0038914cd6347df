"""The lock of the first SMP guests: page faults and emulated stores hold it from first to last.

Guest tables are walked with the lock held, and an emulated store changes memory with the lock held,
so no other exit comes in between. The guest itself takes no lock:

    vCPU 0 (faults)                        vCPU 1 (guest)
    acquire the kvm lock
    walk: gpte = X
                                           stores gpte = Y: its table is not shadowed yet
    shadow the table; install the spte of X
    release

so the lock alone does not make the recheck of 2.6.25 superfluous. What fires in era 2.6.23 is
listed in ``vmm.eras``; each bug file names the fix that ended it.

Departs from 2.6.23, which held the lock from the fault to the end of the emulation: here it is
released between the two.

Source: KVM until 10589a4699 and aaee2c94f7 (2.6.25).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.features import Feature
from vmm.hw.access import AccessKind, GuestFault
from vmm.mmu import fault, mmu, pte_write
from vmm.mmu.api import FaultResult, GuestPageFault
from vmm.units import Gpa, Gva

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class ShadowMmu(mmu.ShadowMmu):
    """One lock for all of KVM."""

    lock_name = "kvm lock"


class PageFault(fault.PageFault):
    """Walk and fix-up in one critical section."""

    async def page_fault(
        self, vcpu: VcpuState, gva: Gva, kind: AccessKind
    ) -> FaultResult | GuestFault:
        """Fix the shadow for one access, or say what else must happen."""
        await self.mmu.lock.acquire()
        walk = await self.mmu.walker.walk(vcpu, gva, kind)
        if isinstance(walk, GuestFault):
            await self.mmu.lock.release()
            await self.reset_flood_detector(vcpu, event=GuestPageFault(vcpu.number, gva))
            return walk
        page = await self.mmu.slots.pin(walk.gfn)
        result = await self.map(vcpu, walk, page, kind)
        await self.mmu.slots.unpin(page)
        await self.mmu.lock.release()
        if result is FaultResult.RESUME:
            await self.reset_flood_detector(vcpu)
        return result


class PteWrite(pte_write.PteWrite):
    """Store and update in one critical section."""

    async def emulated_store(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """Store up to 8 bytes within one page, and let the shadow follow, under the lock."""
        await self.mmu.lock.acquire()
        await self.store(vcpu, gpa, value, size)
        await self.update_and_release(vcpu, gpa, value, size)


SPEC = Feature(
    title="one kvm lock over the whole of a fault and of an emulated store",
    source="KVM until 10589a4699 and aaee2c94f7 (2.6.25); guests with several vCPUs: ef9254df0b",
    since="2.6.20",
    eras=("2.6.20", "2.6.23"),
    locks={"kvm lock": "everything that mmu_lock guards since 2.6.25, and the guest walk"},
)
