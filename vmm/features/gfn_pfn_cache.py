"""The gfn-to-pfn cache: KVM keeps the host page of a frame that it stores to again and again.

    vCPU 0 (its hypercall: KVM stores)     host thread (unmaps frame g)
    acquire gpc lock: not valid; release
    s = mmu_notifier_seq
                                           start: ++mn_active_invalidate_count
                                           acquire gpc lock: not valid anyway; release
    resolves g: host page P
                                           acquire mmu_lock; ++count; zap, flush; release
    acquire gpc lock
    an invalidation is active: not valid
    release, resolve again
                                           frees P
                                           end: ++seq, --count
                                           --mn_active_invalidate_count
    s = mmu_notifier_seq; g lies in Q
    acquire gpc lock
    none active, seq is s: valid, Q; release
    acquire gpc lock; store to Q; release

The page is no spte, so nothing zaps it: the notifier marks the cache as not valid before it takes
mmu_lock, hence before it counts. Whoever fills the cache must therefore ask for the number that
goes up first of all, mn_active_invalidate_count, and not for mmu_notifier_count.

Who fills the cache tries again as long as any invalidation is under way, of whatever range. Where
they follow each other without a gap it never ends (ba5c20a60eaf, 2024, not merged as far as we
know, waits for those of its own range).

Departs from KVM: one cache of one frame for the VM, one lock for readers and writers, and the frame
is given by number, where KVM keeps the address in userspace too and follows changes of the slots.

Source: KVM 982ed0de4753 (2022, 5.17); 58cd407ca4c6, 93984f19e7bc (2022, 5.19).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmm.engine.cells import Guard
from vmm.engine.events import Event
from vmm.engine.ops import mark
from vmm.features import Feature, memslots, notifier_by_slot
from vmm.units import Gfn, Pfn, pfn_to_hpa

if TYPE_CHECKING:
    from vmm.engine.cells import Lock
    from vmm.engine.world import World
    from vmm.mmu.memslots import HostPage


class CachedPageUsed(Event, frozen=True):
    """KVM stored to a host page that it keeps for a frame."""

    gfn: Gfn
    pfn: Pfn


class CachedPage(NamedTuple):
    """What is kept, and whether it may be used."""

    gfn: int = -1
    pfn: int = -1
    valid: bool = False


class Memslots(notifier_by_slot.Memslots):
    """``gpc`` is the cache. KVM: struct gfn_to_pfn_cache."""

    def __init__(self, world: World, lock: Lock) -> None:
        super().__init__(world, lock)
        self.gpc_lock = world.lock("gpc lock")
        self.gpc = world.cell(
            "gfn-to-pfn cache", CachedPage(), guard=Guard.FULL, lock=self.gpc_lock, format=_format
        )

    async def cached(self, gfn: Gfn) -> Pfn | None:
        """The host page that is kept of a frame, if it is valid. Holds: gpc lock."""
        kept = await self.gpc
        return Pfn(kept.pfn) if kept.valid and kept.gfn == gfn else None

    async def refresh(self, gfn: Gfn) -> None:
        """Keep the host page of a frame. Source: KVM, hva_to_pfn_retry."""
        while True:
            page = await self.pin(gfn)
            async with self.gpc_lock:
                if not await self.must_retry(page):
                    await self.gpc.set(CachedPage(gfn, page.pfn, valid=True))
                    return
            await mark("cached page resolved again")

    async def must_retry(self, page: HostPage) -> bool:
        """Whether the page may be on the way out. Source: KVM, mmu_notifier_retry_cache."""
        return await self.active != 0 or await self.sequence != page.sequence

    async def invalidate_cached(self, first: int, frames: int) -> None:
        """Let nobody use what is kept of a range."""
        async with self.gpc_lock:
            kept = await self.gpc
            if kept.valid and first <= kept.gfn < first + frames:
                await self.gpc.set(kept._replace(valid=False))
                await mark("cached page invalidated")


class Host(notifier_by_slot.Host):
    """Tells the cache of what goes."""

    async def invalidate_cached(self, first: int, frames: int) -> None:
        """Before mmu_lock is taken, hence before the count goes up."""
        slots = self.vm.mmu.slots
        assert isinstance(slots, Memslots)
        await slots.invalidate_cached(first, frames)


class Guest(memslots.Guest):
    """A guest that has KVM store for it, as event channels of Xen do."""

    async def send_event(self, gfn: int, value: int) -> None:
        """A hypercall, for which KVM stores to the first word of a frame."""
        slots, memory = self.vm.mmu.slots, self.vm.mmu.memory
        assert isinstance(slots, Memslots)
        await self.vm.loop.leave(self.vcpu, "hypercall")
        under = await slots.srcu.read_lock()
        while True:
            async with slots.gpc_lock:
                pfn = await slots.cached(Gfn(gfn))
                if pfn is not None:
                    event = CachedPageUsed(Gfn(gfn), pfn)
                    await memory.word(pfn_to_hpa(pfn)).set(value, event=event)
                    break
            await slots.refresh(Gfn(gfn))
        await slots.srcu.read_unlock(under)


def _format(kept: CachedPage) -> str:
    return f"gfn {kept.gfn:#x} in pfn {kept.pfn:#x}" if kept.valid else "not valid"


SPEC = Feature(
    title="KVM keeps the host page of a frame that it stores to itself",
    source="KVM 982ed0de4753 (5.17), 58cd407ca4c6 (5.19)",
    since="5.17",
    eras=("2026",),
    needs=("notifier-by-slot",),
    locks={"gpc lock": "what is kept, and whether it may be used"},
)
