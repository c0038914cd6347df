"""Fast page fault: what the dirty log protected becomes writable again without mmu_lock.

    vCPU 0 (writes frame g)                vCPU 1 or host (holds mmu_lock)
    faults; interrupts off, says it reads
    walks to the spte of g:
    W = 0, MMU_WRITEABLE = 1
                                           makes g a table, say: reads the spte, W = 0
    cmpxchg(spte, old, old | W): won
                                           exchange: W and MMU_WRITEABLE := 0; replaced: W = 1
                                           so some TLB may have W: flush, wait
    sets g in the dirty bitmap
    says that it is done; interrupts on

Each spte that is made writable has MMU_WRITEABLE too. The dirty log takes W only, the shadowing of
a table takes both, so MMU_WRITEABLE says why W is clear. Such an spte is volatile: its W may come
back at any moment, so whoever holds the lock exchanges it and judges by what was replaced.

The frame is logged after the exchange. If it were logged before, the log could be read in between,
find W clear, and miss the writes that follow. Another vCPU may write before the bit is set; that
write is told by the next reading, and no vCPU is migrated before it.

Only vCPUs without paging are served: all their pages are direct, so the gfn of an spte never
changes, and an spte that has the old value still maps the frame that is logged. Elsewhere it may
not:

    vCPU 0 (fast page fault)               host and vCPU 1
    reads the spte: pfn P; gpte: gfn 1
                                           the host takes P from gfn 1: spte := 0
                                           P becomes the page of gfn 2
                                           the guest lets the gpte say gfn 2
                                           vCPU 1 faults: spte := P, as it was
    cmpxchg: the value is the old one: won
    logs gfn 1; the writes go to gfn 2

KVM asks for direct pages too (direct_map). KVM's second bit, HOST_WRITEABLE, would always be set:
every host page of the model is writable. KVM lets a fault end here too when its spte has gone; here
the lock decides that.

Source: KVM c7ba5b48cc (2012, 3.6; the hash is recalled), locking.rst.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vmm.bits import P, W
from vmm.engine.cells import Guard
from vmm.engine.ops import mark
from vmm.features import Feature, dirty_log, lockless_walk
from vmm.features.dirty_log import LocklessWritable, slots_of
from vmm.hw.paging import PagingMode
from vmm.mmu import shadow_page, shadowing
from vmm.mmu.api import FaultResult
from vmm.units import Gfn, Gpa, Gva, gpa_to_gfn

if TYPE_CHECKING:
    from vmm.features.lockless_walk import LocklessLeaf
    from vmm.hw.access import AccessKind
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import SpteRef
    from vmm.vcpu.vcpu import Vcpu

MMU_WRITEABLE = 1 << 10
"""A bit that hardware ignores: W may be set without the lock. Source: KVM, bit 10 of an spte."""


def is_volatile(spte: int) -> bool:
    """Whether a fast page fault may change the spte at any moment."""
    return bool(spte & P and spte & MMU_WRITEABLE)


class ShadowPage(shadow_page.ShadowPage):
    """Its volatile sptes are replaced by a locked exchange."""

    spte_guard = Guard.EXCHANGE

    async def exchange(self, index: int, old: int, new: int) -> int:
        """Replace a present spte by another; gives what was there, which may be ``old | W``."""
        if not (is_volatile(old) and new & P):
            return await super().exchange(index, old, new)
        return await self.xchg(index, old, new)


class SetSpte(dirty_log.SetSpte):
    """What becomes writable may become so again."""

    async def replace(
        self, me: VcpuState | None, page: shadow_page.ShadowPage, index: int, new: int
    ) -> None:
        """W is granted to frames that are no table: MMU_WRITEABLE with it."""
        if new & P and new & W:
            new |= MMU_WRITEABLE
        await super().replace(me, page, index, new)


class Shadowing(shadowing.Shadowing):
    """Protects tables for good."""

    async def clear_writable(self, ref: SpteRef) -> bool:
        """Take W and MMU_WRITEABLE away; whether a TLB may have W."""
        return await self.protect(ref, W | MMU_WRITEABLE)

    async def protect(self, ref: SpteRef, bits: int) -> bool:
        """Take bits from one spte; whether that calls for a flush. Holds: mmu_lock."""
        page = self.mmu.cache.pages[ref.page]
        spte = await page[ref.index]
        if not (spte & P and spte & bits):
            return False
        replaced = await page.exchange(ref.index, spte, spte & ~bits)
        await self.mmu.set_spte.track_bits(replaced, replaced & ~bits)
        return self.needs_flush(replaced)

    def needs_flush(self, replaced: int) -> bool:
        """Whether a TLB may hold more than what is left of an spte."""
        return bool(replaced & W)


class Host(dirty_log.Host):
    """Protects frames so that their next write is seen, not so that they stay as they are."""

    async def clear_dirty(self, ref: SpteRef) -> bool:
        """Take W and leave MMU_WRITEABLE."""
        return await shadowing_of(self.vm.mmu).protect(ref, W)


class PageFault(lockless_walk.PageFault):
    """Fixes write-protection faults within the lockless walk."""

    async def fix_lockless(
        self, vcpu: Vcpu, leaf: LocklessLeaf, gva: Gva, kind: AccessKind
    ) -> FaultResult | None:
        """What the fault comes to, if the leaf tells. Between ``walk_begin`` and ``walk_end``."""
        result = await super().fix_lockless(vcpu, leaf, gva, kind)
        if result is not None:
            return result
        registers = await vcpu.registers
        direct = registers.controls.mode is PagingMode.NONE
        if not (kind.write and direct and is_volatile(leaf.spte)):
            return None
        return FaultResult.RESUME if await self.make_writable(vcpu, leaf, gva) else None

    async def make_writable(self, vcpu: Vcpu, leaf: LocklessLeaf, gva: Gva) -> bool:
        """Set W if the spte is still what was read, then log the frame; whether it was."""
        gfn = gpa_to_gfn(Gpa(gva))  # without paging addresses are physical
        spte = self.mmu.cache.pages[leaf.page][leaf.index]
        event = partial(_writable, vcpu.number, gfn)
        if not await spte.cas(leaf.spte, leaf.spte | W, event=event):
            await mark("fast page fault lost")
            return False
        await slots_of(self.mmu).mark_dirty(gfn)
        await mark("fast page fault")
        return True


def _writable(vcpu: int, gfn: Gfn, won: bool) -> LocklessWritable | None:
    return LocklessWritable(vcpu, gfn) if won else None


def shadowing_of(mmu: ShadowMmu) -> Shadowing:
    """The shadowing of a machine with this feature."""
    assert isinstance(mmu.shadowing, Shadowing)
    return mmu.shadowing


SPEC = Feature(
    title="write protection of the dirty log is lifted by cmpxchg, without mmu_lock",
    source="KVM c7ba5b48cc (3.6); locking.rst",
    since="3.6",
    eras=("3.6", "5.15", "2026"),
    needs=("dirty-log", "lockless-walk"),
    locks={"mmu_lock": "not held by the fast path; its holders exchange volatile sptes"},
)
