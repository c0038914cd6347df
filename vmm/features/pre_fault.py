"""Pre-faulting: userspace has pages mapped before the guest needs them.

    vCPU 0's thread (KVM_PRE_FAULT_MEMORY) host thread (deletes the slot of g)
    srcu read lock
                                           publish the slots, that of g invalid
                                           synchronize: waits for vCPU 0
    fault on g: the slot is invalid
    gives up: -EAGAIN
    srcu read unlock
                                           goes on

A guest that meets an invalid slot just faults again; its section has ended in between. The ioctl
has one section around all its faults, so it must not try again itself.

Departs from KVM, which pre-faults only where it does not shadow guest page tables (EPT and NPT),
and ranges of frames: here one page of the guest's address space.

Source: KVM 6.11 (2024, KVM_PRE_FAULT_MEMORY); merge 5b0d0d85422d (2025, 6.18).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.features import Feature, memslots
from vmm.features.memslots import slots_of
from vmm.hw.access import LOAD
from vmm.mmu.api import FaultResult
from vmm.units import Gva
from vmm.vcpu.events import UserExit

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class PageFault(memslots.PageFault):
    """Faults for nobody's access."""

    async def pre_fault(self, vcpu: VcpuState, gva: Gva) -> bool:
        """Map what a load of ``gva`` would need; False: try again, from the beginning."""
        srcu = slots_of(self.mmu).srcu
        under = await srcu.read_lock()
        while True:
            result = await self.page_fault(vcpu, gva, LOAD)
            if result is not FaultResult.RETRY or self.gives_up():
                break
        await srcu.read_unlock(under)
        return result is not FaultResult.RETRY

    def gives_up(self) -> bool:
        """Whether an invalid slot is left to userspace."""
        return True


class Guest(memslots.Guest):
    """A vCPU whose userspace pre-faults."""

    async def pre_fault(self, gva: int) -> bool:
        """Have a page mapped before the guest needs it; False: -EAGAIN."""
        await self.vm.loop.leave(self.vcpu, "ioctl")
        await self.vm.loop.load_root(self.vcpu)
        faults = self.vm.mmu.fault
        assert isinstance(faults, PageFault)
        done = await faults.pre_fault(self.vcpu, Gva(gva))
        if not done:
            await mark(UserExit(self.number, "-EAGAIN"))
            await mark("pre-fault given up")
        return done


SPEC = Feature(
    title="userspace has pages mapped before the guest needs them",
    source="KVM 6.11 (KVM_PRE_FAULT_MEMORY), merge 5b0d0d85422d (6.18)",
    since="6.11",
    eras=("2026",),
    needs=("memslots",),
)
