"""Leaf sptes: how one is made from a guest translation and how it replaces another.

Source: KVM cea0f0e7ea, 374cbac033, 40907d5768 (2007); 0028425f64 (2007, update instead of zap);
79539cec0c (2008, flush only when something is lost); 4436d46621 (2007, host CR0.WP is always set).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import NX, A, D, P, U, W, frame_of, make_entry
from vmm.engine.world import ModelObject
from vmm.mmu.memslots import gfn_of
from vmm.mmu.shadow_page import SpteRef
from vmm.units import Gfn, Pfn

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import ShadowPage


def make_leaf(pfn: Pfn, rights: int, *, writable: bool) -> int:
    """A present leaf spte. A and D are set: the model's walker need not set them."""
    return make_entry(pfn, P | A | D | rights & (U | NX) | (W if writable else 0))


def make_link(pfn: Pfn) -> int:
    """A non-leaf spte: fully permissive, since the rights of a walk live in its leaf."""
    return make_entry(pfn, P | A | W | U)


def loses_rights(old: int, new: int) -> bool:
    """Whether a TLB that holds ``old`` may permit what ``new`` does not."""
    if not old & P:
        return False
    if not new & P or frame_of(old) != frame_of(new):
        return True
    return bool(old & ~new & (W | U) or new & ~old & NX)


class SetSpte(ModelObject):
    """Installs leaf sptes. Holds: mmu_lock."""

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    async def install(
        self, me: VcpuState, page: ShadowPage, index: int, *, pfn: Pfn, rights: int, dirty: bool
    ) -> bool:
        """Map ``pfn`` with ``rights``; the result says that it is write-protected, being shadowed.

        A page whose gpte is clean is mapped read-only, so that its first write sets D.
        """
        writable = bool(rights & W) and dirty
        shadowed = writable and await self.mmu.cache.is_shadowed(gfn_of(pfn))
        spte = make_leaf(pfn, rights, writable=writable and not shadowed)
        await self.replace(me, page, index, spte)
        return shadowed

    async def replace(self, me: VcpuState | None, page: ShadowPage, index: int, new: int) -> None:
        """Make ``new`` (0: none) the leaf at ``index``: rmap out, store, rmap in, flush if owed."""
        old = await page[index]
        if old == new:
            return
        ref = SpteRef(page.number, index)
        moves = frame_of(old) != frame_of(new)
        if old & P and (moves or not new & P):
            await self.mmu.rmap.remove(self.gfn(old), ref)
        replaced = await page.exchange(index, old, new)
        await self.track_bits(replaced, new)
        if new & P and (moves or not old & P):
            await self.rmap_add(me, new, ref)
        if self.owes_flush(replaced, new):
            await self.mmu.flusher.flush_remote(me)

    async def track_bits(self, old: int, new: int) -> None:
        """Keep what a leaf knew of the use of its page (only with the feature page-flags)."""

    def owes_flush(self, old: int, new: int) -> bool:
        """Whether some TLB may permit what the spte no longer does."""
        return loses_rights(old, new)

    async def rmap_add(self, me: VcpuState | None, new: int, ref: SpteRef) -> None:
        """Record what ``ref`` maps."""
        await self.mmu.rmap.add(self.gfn(new), ref)

    def gfn(self, spte: int) -> Gfn:
        """The guest frame that a present leaf spte maps."""
        return gfn_of(frame_of(spte))
