"""Access tracking: an spte that is aged stays where it is, but the next access faults.

    vCPU 0 (uses frame g)                  host (ages g)
    has g in its TLB
                                           acquire mmu_lock
                                           exchange: the spte of g becomes tracked;
                                           it was not: young. It had W: page of g: dirty
                                           flush, wait
    faults: the spte is tracked            release mmu_lock
    cmpxchg(spte, tracked, present): won
    uses g
                                           ages g: not tracked, so young again

Where a processor sets no A bit in sptes, KVM must see the first access to a page that was aged. It
could drop the spte, and did so; then the fault has to make it anew, under mmu_lock. A tracked one
keeps what it maps, in the reverse map too, and gives no rights to anybody. W is not kept: it may
have to be taken from the frame meanwhile, and without it nothing has. So whether the page was
written must be told when W goes.

Without paging the spte is restored without the lock, as a fast page fault sets W, and for the same
reason there only; else the fault makes a new one over it, under the lock.

Departs from KVM, which clears R, W and X of an EPT entry and keeps R and X in other bits: here a
tracked spte has a reserved bit, at which every walk ends as well.

Source: KVM f160c7b7bb32 (2016, 4.11; the hash is recalled).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import RESERVED, P, W, frame_of
from vmm.engine.cells import Guard
from vmm.engine.ops import mark
from vmm.features import Feature, lockless_walk, page_flags
from vmm.hw.paging import PagingMode
from vmm.mmu.api import FaultResult

if TYPE_CHECKING:
    from vmm.features.lockless_walk import LocklessLeaf
    from vmm.hw.access import AccessKind
    from vmm.mmu.shadow_page import SpteRef
    from vmm.units import Gfn, Gva
    from vmm.vcpu.vcpu import Vcpu


def is_tracked(spte: int) -> bool:
    """Whether the next access through an spte faults, to be seen."""
    return bool(spte & P and spte & RESERVED)


def make_tracked(spte: int) -> int:
    """The same, for the next access to be seen."""
    return (spte | RESERVED) & ~W


class ShadowPage(page_flags.ShadowPage):
    """A vCPU restores its tracked sptes without the lock."""

    spte_guard = Guard.EXCHANGE


class SetSpte(page_flags.SetSpte):
    """A tracked spte was not used, and no TLB has it."""

    async def track_bits(self, old: int, new: int) -> None:
        """What ``old`` says and ``new`` does not. Holds: mmu_lock."""
        if is_tracked(new) and frame_of(old) == frame_of(new & ~RESERVED):
            new &= ~RESERVED  # it stays, so that ageing may ask the spte itself
        if not is_tracked(old):
            await super().track_bits(old, new)

    def owes_flush(self, old: int, new: int) -> bool:
        """Whether some TLB may permit what the spte no longer does."""
        return not is_tracked(old) and super().owes_flush(old, new)


class Host(page_flags.Host):
    """A host that ages pages and leaves their sptes."""

    async def age_sptes(self, gfn: Gfn) -> bool:
        """Whether an spte says that a page was used; none does any more. Holds: mmu_lock."""
        used = False
        for ref in await self.vm.mmu.rmap.chains[gfn]:
            used = await self.track(ref) or used
        if used or await self.vm.mmu.shadowing.flush_owed():
            await self.vm.mmu.flusher.flush_remote(None)
        return used

    async def track(self, ref: SpteRef) -> bool:
        """Let the next access through an spte be seen; whether there was one."""
        page = self.vm.mmu.cache.pages[ref.page]
        spte = await page[ref.index]
        if is_tracked(spte):
            return False
        replaced = await page.exchange(ref.index, spte, make_tracked(spte))
        await self.vm.mmu.set_spte.track_bits(replaced, make_tracked(replaced))
        return True


class PageFault(lockless_walk.PageFault):
    """Restores tracked sptes within the lockless walk."""

    async def fix_lockless(
        self, vcpu: Vcpu, leaf: LocklessLeaf, gva: Gva, kind: AccessKind
    ) -> FaultResult | None:
        """What the fault comes to, if the leaf tells. Between ``walk_begin`` and ``walk_end``."""
        registers = await vcpu.registers
        if not is_tracked(leaf.spte) or registers.controls.mode is not PagingMode.NONE:
            return await super().fix_lockless(vcpu, leaf, gva, kind)
        spte = self.mmu.cache.pages[leaf.page][leaf.index]
        if not await spte.cas(leaf.spte, leaf.spte & ~RESERVED):
            return None
        await mark("tracked spte restored")
        # A write faults once more, for W.
        return FaultResult.RESUME


SPEC = Feature(
    title="sptes that are aged stay, and the next access through them is seen",
    source="KVM f160c7b7bb32 (4.11)",
    since="4.11",
    eras=("5.15", "2026"),
    needs=("lockless-walk", "page-flags"),
    locks={"mmu_lock": "held while sptes are aged; not by a vCPU that restores one"},
)
