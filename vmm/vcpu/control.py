"""Control registers: writes to them exit, and KVM answers for the processor.

What a processor refuses is a #GP of the guest's own, a value. Any other change drops the root, as
the shadow of another table, or of the same table in another mode, is wanted from now on. The old
shadow stays in the cache under its own role.

    vCPU 0 (guest)                         KVM
    MOV CR0, paging on: exits
                                           refused? then #GP
                                           PAE: load the PDPTEs; reserved bits? then #GP
                                           acquire mmu_lock; let go of the root; release
                                           the new registers
                                           next entry: find or make the roots of the new mode

Source: KVM 1342d3536d (2007, PDPTEs are loaded as the processor does), 17c3ba9d37 (2007, the root
is dropped here and loaded before entry). KVM does not offer protection keys to a guest on a shadow
MMU, only with EPT or NPT, so CR4.PKE gives #GP. d21225ee2b (2007, #GP for a cr3 outside all
memslots) has no place here, where page tables always lie in a memslot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from vmm.engine.world import ModelObject
from vmm.hw.access import GeneralProtection
from vmm.hw.control import is_cr3_refused, is_refused, loads_pdptes, pdpte_gpas
from vmm.hw.events import RegistersWritten
from vmm.hw.paging import Controls, PagingMode, pdptes_valid

if TYPE_CHECKING:
    from vmm.hw.paging import PagingRegisters
    from vmm.vcpu.run_loop import RunLoop
    from vmm.vcpu.vcpu import Vcpu


class ControlRegisters(ModelObject):
    """Carries out writes to control registers. Holds: nothing at the start."""

    def __init__(self, loop: RunLoop) -> None:
        self.loop = loop

    async def mov_cr3(self, vcpu: Vcpu, value: int) -> GeneralProtection | None:
        """Load cr3; in PAE mode with the PDPTEs that lie there now."""
        await self.loop.leave(vcpu, "cr3 load")
        old = await vcpu.registers
        return await self.load_cr3(vcpu, old, value)

    async def load_cr3(
        self, vcpu: Vcpu, old: PagingRegisters, value: int
    ) -> GeneralProtection | None:
        """The same, outside the guest, with the registers as they are."""
        if is_cr3_refused(value, old.controls):
            return GeneralProtection(value)
        written = RegistersWritten(vcpu.number, old, old._replace(cr3=value), mov_cr3=True)
        if old.controls.mode is PagingMode.PAE:
            return await self.load_pdptes(vcpu, written)
        await vcpu.mmu.roots.switch(vcpu, written)
        return None

    async def change(
        self, vcpu: Vcpu, reason: str, **bits: bool | None
    ) -> GeneralProtection | None:
        """Change control bits by one instruction; None leaves a bit as it is."""
        await self.loop.leave(vcpu, reason)
        old = await vcpu.registers
        chosen = {name: bit for name, bit in bits.items() if bit is not None}
        controls = old.controls._replace(**chosen)
        if controls.pke or is_refused(old.controls, controls):
            return GeneralProtection(0)
        new = old._replace(controls=controls)
        if controls.mode is not PagingMode.PAE:
            new = new._replace(pdptes=())
        written = RegistersWritten(vcpu.number, old, new, mov_cr3=False)
        if loads_pdptes(old.controls, controls):
            return await self.load_pdptes(vcpu, written)
        await vcpu.mmu.roots.switch(vcpu, written)
        return None

    async def load_pdptes(self, vcpu: Vcpu, written: RegistersWritten) -> GeneralProtection | None:
        """Latch the PDPTEs with the new registers. Ops: a read each."""
        new = written.new
        pdptes = await self.read_pdptes(vcpu, new.cr3, new.controls)
        if not pdptes_valid(pdptes, new.controls):
            return GeneralProtection(new.cr3)
        latched = replace(written, new=new._replace(pdptes=pdptes))
        await vcpu.mmu.roots.switch(vcpu, latched)
        return None

    async def read_pdptes(self, vcpu: Vcpu, cr3: int, controls: Controls) -> tuple[int, ...]:
        """The four PDPTEs as they lie in memory now."""
        pdptes: tuple[int, ...] = ()
        for gpa in pdpte_gpas(cr3, controls):
            pdptes = (*pdptes, await vcpu.mmu.memory.word(gpa))
        return pdptes
