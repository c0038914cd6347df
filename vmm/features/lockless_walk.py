"""The lockless walk: a vCPU reads the shadow without mmu_lock, and no page is freed under it.

    vCPU 0 (walks)                         vCPU 1 or host (zaps page S)
    interrupts off
    mode0 := READING_SHADOW_PAGE_TABLES
    full barrier
    reads an spte: points to S
                                           acquire mmu_lock; unlink S
                                           flush: mode0 is not OUTSIDE, so IPI, wait
    reads S
    mode0 := OUTSIDE; interrupts on
    takes the IPI: acknowledged
                                           S goes back to the pool

The walker is protected by what protects the processor's own walks: pages are freed after a flush,
and a flush waits for everybody who is in the guest, or reads like one. Interrupts stay off for the
whole walk, so that the IPI is not acknowledged before its end.

Here each fault looks first whether the shadow permits the access by now, since another vCPU may
have fixed it; such a fault is spurious. KVM of 3.6 walked for MMIO and for fast page faults; the
check for spurious faults of shadow paging came later, so this use of the walk is the model's.

Source: KVM c142786c62 (2012), in place of the RCU scheme of c2a2ac2b56 (2011); locking.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmm.bits import P, U, W, combine, frame_of, is_walkable
from vmm.engine.ops import mark
from vmm.features import Feature
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.paging import grants
from vmm.mmu import fault
from vmm.mmu.api import NO_PAGE, FaultResult, LocklessRead
from vmm.mmu.role import shadow_controls
from vmm.units import Gva, table_index
from vmm.vcpu.vcpu import Mode, Vcpu

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class LocklessLeaf(NamedTuple):
    """What a lockless walk ended at: an spte as it was read, and the rights of the whole walk."""

    page: int
    index: int  # type: ignore[assignment]  # hides tuple.index, of no use here
    spte: int
    rights: int


class PageFault(fault.PageFault):
    """Looks at the shadow before it takes the lock."""

    async def page_fault(
        self, vcpu: VcpuState, gva: Gva, kind: AccessKind
    ) -> FaultResult | GuestFault:
        """A spurious fault ends here."""
        assert isinstance(vcpu, Vcpu)
        result = await self.look_protected(vcpu, gva, kind)
        if result is not None:
            return result
        return await super().page_fault(vcpu, gva, kind)

    async def look_protected(self, vcpu: Vcpu, gva: Gva, kind: AccessKind) -> FaultResult | None:
        """What the fault comes to, if the shadow tells; no page is freed meanwhile."""
        await self.walk_begin(vcpu)
        result = await self.look(vcpu, gva, kind)
        await self.walk_end(vcpu)
        return result

    async def look(self, vcpu: Vcpu, gva: Gva, kind: AccessKind) -> FaultResult | None:
        """Walk, and fix what can be fixed without the lock."""
        leaf = await self.walk_lockless(vcpu, gva)
        return None if leaf is None else await self.fix_lockless(vcpu, leaf, gva, kind)

    async def fix_lockless(
        self, vcpu: Vcpu, leaf: LocklessLeaf, gva: Gva, kind: AccessKind
    ) -> FaultResult | None:
        """What the fault comes to, if the leaf tells. Between ``walk_begin`` and ``walk_end``."""
        registers = await vcpu.registers
        permitted = grants(leaf.rights, kind, shadow_controls(registers.controls))
        if not (is_walkable(leaf.spte) and permitted):
            return None
        await mark("spurious fault")
        return FaultResult.RESUME

    async def walk_begin(self, vcpu: Vcpu) -> None:
        """From here on no shadow page is freed."""
        await vcpu.pcpu.interrupts_off()
        await vcpu.mode.set(Mode.READING_SHADOW_PAGE_TABLES, serialising=True)

    async def walk_lockless(self, vcpu: Vcpu, gva: Gva) -> LocklessLeaf | None:
        """The leaf of the shadow's translation, present or not. Holds: nothing.

        None if the way to it ends above.
        """
        root, rights = await vcpu.root, W | U
        number = root.page(gva) if root.pages else NO_PAGE
        if number == NO_PAGE:
            return None
        page, index, spte = self.mmu.cache.pages[number], 0, 0
        for level in range(root.level, 0, -1):
            event = LocklessRead(vcpu.number, page.pfn, gva, level)
            index = table_index(gva, level)
            spte = await page[index].read(event=event)
            if not spte & P and level > 1:
                return None
            rights = combine(rights, spte)
            if level > 1:
                page = self.mmu.cache.page_at(frame_of(spte))
        return LocklessLeaf(page.number, index, spte, rights)

    async def walk_end(self, vcpu: Vcpu) -> None:
        """Pages that were read may be freed again."""
        await vcpu.mode.set(Mode.OUTSIDE_GUEST_MODE)
        await vcpu.pcpu.interrupts_on()


SPEC = Feature(
    title="vCPUs walk the shadow without mmu_lock; flushes wait for them",
    source="KVM c142786c62 (3.5); locking.rst",
    since="3.5",
    eras=("3.6", "5.15", "2026"),
    needs=("vcpu-mode",),
)
