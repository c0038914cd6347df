"""Accessed and dirty: what an spte knew of the use of its page is told to the host when it goes.

    vCPU 0 (guest)                         vCPU 1 or host (holds mmu_lock)
    writes frame g through a writable spte
                                           zaps the table of that spte:
                                           exchange(spte, 0): it was present, W = 1
                                           page of g: accessed, dirty
                                           release mmu_lock
                                           ageing: acquire mmu_lock; rmap[g] is empty
                                           page of g: accessed, so it is young; not any more
                                           release
                                           takes the page: it is dirty, so it is written to disk

The host asks two things of a page: was it used since it was last asked, and was it written since it
was last clean. While an spte maps the page, the spte knows. When the spte goes, or loses W, the
page's own flags must keep it, or a page in use is swapped out, or what was written is thrown away.

The spte is exchanged for the next one, since a fast page fault may give it W until then.

Sptes have no bits of the processor's own here, as with EPT before it had A and D: to be there means
accessed, W means dirty. To age a page is to take its sptes away, and to see whether they come back.
Stores that KVM itself does to guest memory are told by the host's own tables.

Source: KVM 8986ecc0ef58 (2007, pages are dirty or not when sptes go; the hash is recalled),
9ed5520dd3c9 (2010, 2.6.36), 57128468080a (2014, ageing).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from vmm.bits import P, W, frame_of
from vmm.engine.events import Event, Goal
from vmm.features import Feature, notifier
from vmm.features.host_paging import HostFrame
from vmm.mmu import shadow_page, spte
from vmm.mmu.memslots import pfn_of
from vmm.mmu.shadow_page import listed
from vmm.units import Gfn, Numbers, Pfn, has_number, with_number, without_number

if TYPE_CHECKING:
    from vmm.engine.cells import Lock
    from vmm.engine.world import World
    from vmm.mmu.mmu import ShadowMmu

Pfns = tuple[int, ...]


class PageAgeing(Event, frozen=True):
    """The host asks whether a page was used; what happens from here on may be told or not."""

    pfn: Pfn


class PageAged(Event, frozen=True):
    """The host asked whether a page was used, and was told."""

    pfn: Pfn
    young: bool


class PageCleaned(Event, frozen=True):
    """The host took a page, and wrote it to disk if it is ``dirty``."""

    pfn: Pfn
    dirty: bool


class PageFlags(NamedTuple):
    """The host pages that are accessed, and those that are dirty.

    By page, not by guest frame: a frame may have a new page before the old one is freed.
    """

    accessed: Pfns = ()
    dirty: Pfns = ()


class Memslots(notifier.Memslots):
    """``flags`` are those of the host's pages. Linux: PG_referenced, PG_dirty."""

    def __init__(self, world: World, lock: Lock) -> None:
        super().__init__(world, lock)
        self.flags = world.cell("page flags", PageFlags(), marked=True, format=_format)


class ShadowPage(shadow_page.ShadowPage):
    """Its sptes are replaced by a locked exchange. Holds: mmu_lock."""

    async def exchange(self, index: int, old: int, new: int) -> int:
        """Replace an spte; gives what was there in the very end."""
        old = await self.xchg(index, old, new)
        if bool(old) != bool(new):
            await self.present.update(_listed, index, bool(new))
        return old


class SetSpte(spte.SetSpte):
    """Tells the host. Source: KVM, mmu_spte_update and mmu_spte_clear_track_bits."""

    async def track_bits(self, old: int, new: int) -> None:
        """What ``old`` says and ``new`` does not. Holds: mmu_lock."""
        if not old & P:
            return
        goes = not new & P or frame_of(old) != frame_of(new)
        dirty = bool(old & W) and (goes or not new & W)
        if goes or dirty:
            await self.set_flags(Pfn(frame_of(old)), accessed=goes, dirty=dirty)

    async def set_flags(self, pfn: Pfn, *, accessed: bool, dirty: bool) -> None:
        """Set flags of a host page (kvm_set_pfn_accessed, kvm_set_pfn_dirty)."""
        await slots_of(self.mmu).flags.update(_set, pfn, accessed, dirty)


class Host(notifier.Host):
    """A host that asks before it takes."""

    async def age(self, gfn: int) -> bool:
        """Whether the guest used a frame since it was last asked (clear_flush_young)."""
        mmu, slots = self.vm.mmu, slots_of(self.vm.mmu)
        async with mmu.lock:
            pfn = _page(gfn, await slots.frames[gfn].read(event=partial(_ageing, gfn)))
            if pfn is None:
                return False
            used = await self.age_sptes(Gfn(gfn))
            return await slots.flags.update(_take_accessed, pfn, used, event=partial(_aged, pfn))

    async def age_sptes(self, gfn: Gfn) -> bool:
        """Whether an spte says that a page was used; none does any more. Holds: mmu_lock."""
        return await self.vm.mmu.zap.zap_leaves(None, gfn)

    async def free(self, pfn: Pfn | None) -> bool:
        """Write a page to disk if it is dirty, and give it back."""
        if pfn is not None:
            event = partial(_cleaned, pfn)
            await slots_of(self.vm.mmu).flags.update(_take_dirty, pfn, event=event)
        return await super().free(pfn)


def slots_of(mmu: ShadowMmu) -> Memslots:
    """The memslots of a machine with this feature."""
    assert isinstance(mmu.slots, Memslots)
    return mmu.slots


def _format(flags: PageFlags) -> str:
    named = [
        f"pfn {pfn:#x}{' accessed' if pfn in flags.accessed else ''}"
        f"{' dirty' if pfn in flags.dirty else ''}"
        for pfn in sorted(dict.fromkeys((*flags.accessed, *flags.dirty)))
    ]
    return ", ".join(named) or "none"


def _page(gfn: int, frame: HostFrame) -> Pfn | None:
    """The host page of a frame, if it has one."""
    return pfn_of(gfn, frame.generation) if frame.present else None


def _set(flags: PageFlags, pfn: int, accessed: bool, dirty: bool) -> tuple[PageFlags, None]:
    if accessed:
        flags = flags._replace(accessed=with_number(flags.accessed, pfn))
    if dirty:
        flags = flags._replace(dirty=with_number(flags.dirty, pfn))
    return flags, None


def _take_accessed(flags: PageFlags, pfn: int, used: bool) -> tuple[PageFlags, bool]:
    young = used or has_number(flags.accessed, pfn)
    return flags._replace(accessed=without_number(flags.accessed, pfn)), young


def _take_dirty(flags: PageFlags, pfn: int) -> tuple[PageFlags, bool]:
    return flags._replace(dirty=without_number(flags.dirty, pfn)), has_number(flags.dirty, pfn)


def _ageing(gfn: int, frame: HostFrame) -> PageAgeing | None:
    pfn = _page(gfn, frame)
    return None if pfn is None else PageAgeing(pfn)


def _aged(pfn: Pfn, young: bool) -> tuple[Event, ...]:
    return PageAged(pfn, young), Goal("young page found" if young else "old page found")


def _cleaned(pfn: Pfn, dirty: bool) -> tuple[Event, ...]:
    return PageCleaned(pfn, dirty), Goal("dirty page taken" if dirty else "clean page taken")


def _listed(present: Numbers, index: int, there: bool) -> tuple[Numbers, None]:
    return listed(present, index, there), None


SPEC = Feature(
    title="what sptes knew of the use of a page is told to the host when they go",
    source="KVM 9ed5520dd3c9 (2.6.36), 57128468080a (3.18)",
    since="2.6.27",
    eras=("2.6.28", "3.6", "5.15", "2026"),
    needs=("notifier",),
    locks={"mmu_lock": "held while an spte is exchanged and its page told"},
)
