"""MMIO sptes: that a frame has no memory is kept in the shadow, with the generation of the slots.

A device is accessed again and again, each time by a fault that finds no slot. So the first one
leaves a marker in the place of the spte, and the next ones find it without a lock.

    vCPU 0 (accesses frame g)              host thread (makes a slot with g)
    srcu read lock
    finds no slot for g
                                           publish the slots with g, being updated
                                           synchronize: waits for vCPU 0
    acquire mmu_lock
    marker: g, generation 0; release
    exits to userspace; srcu read unlock
                                           generation := 1, updated
    faults: marker of generation 0, not 1
    srcu read lock; finds the slot; maps g

A marker counts if it has the generation of now and no update is under way. The generation goes up
after the grace period: a marker that was made of the old slots has an old generation, though it was
stamped when the new ones were there already.

A marker has few bits for the generation. Before the number comes round all pages are zapped, while
nobody can take a marker of the time before for a new one yet (152482580a1b).

What a vCPU found last is kept beside the shadow, with the generation as well: the emulator sends an
access to that frame to userspace without another look at the slots.

Departs from KVM, where a marker is present with reserved bits set, so that the error code says that
there may be one: here it is not present, and each fault looks. KVM keeps the last gva too.
Generations come round after 4; KVM had 19 bits for them, and fewer later.

Source: KVM ce88decfd25b (2011, 3.1), f8f559422b6c (2013, 3.11, generations), ee3d1570b586 and
56f17dd3fbc4 (2014, 3.17), ddfd1730fd82 and 152482580a1b (2019, 5.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vmm.bits import MMIO, P, frame_of, make_entry
from vmm.engine.ops import mark
from vmm.features import Feature, lockless_walk, memslots
from vmm.mmu import zap
from vmm.mmu.api import FaultResult
from vmm.units import Gfn, Gva, table_index
from vmm.vcpu import vcpu

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.events import Event
    from vmm.engine.world import World
    from vmm.features.lockless_walk import LocklessLeaf
    from vmm.hw.access import AccessKind
    from vmm.mmu.api import VcpuState
    from vmm.mmu.guest_walk import GuestWalk
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import ShadowPage

GENERATIONS = 4
"""How many a marker can tell apart."""
GENERATION_SHIFT = 52
"""Where a marker has its generation: above the frame."""


def make_marker(gfn: Gfn, generation: int) -> int:
    """An MMIO spte."""
    return make_entry(gfn, MMIO) | generation % GENERATIONS << GENERATION_SHIFT


def is_marker(spte: int) -> bool:
    """Whether an spte says that its frame has no memory."""
    return bool(spte & MMIO) and not spte & P


def generation_of(marker: int) -> int:
    """The generation of a marker, as far as it is told."""
    return marker >> GENERATION_SHIFT


class LastMmio(NamedTuple):
    """The frame without memory that a vCPU accessed last. ``generation``: as a marker has it."""

    gfn: int = -1
    generation: int = 0


class Vcpu(vcpu.Vcpu):
    """``last_mmio`` is its own. KVM: vcpu->arch.mmio_gfn and mmio_gen."""

    def __init__(self, world: World, *args: Any, **others: Any) -> None:
        super().__init__(world, *args, **others)
        self.last_mmio: Cell[LastMmio] = world.cell(
            f"last mmio of v{self.number}", LastMmio(), observable=False, buffered=False
        )


class Memslots(memslots.Memslots):
    """Says what may be taken for current."""

    async def is_current(self, generation: int) -> bool:
        """Whether what was stamped with a generation still holds."""
        slots = await self.memslots
        return not slots.updating and generation == slots.generation % GENERATIONS

    async def stamp(self) -> int:
        """The generation of now, for what was found in the section that the caller is in."""
        return (await self.memslots).generation % GENERATIONS


class PageFault(lockless_walk.PageFault, memslots.PageFault):
    """Leaves markers, and looks for them first."""

    async def fix_lockless(
        self, vcpu: vcpu.Vcpu, leaf: LocklessLeaf, gva: Gva, kind: AccessKind
    ) -> FaultResult | None:
        """A marker that is current says it all. Between ``walk_begin`` and ``walk_end``."""
        if not is_marker(leaf.spte):
            return await super().fix_lockless(vcpu, leaf, gva, kind)
        if not await slots_of(self.mmu).is_current(generation_of(leaf.spte)):
            await mark("stale MMIO spte met")
            return None
        await self.remember(vcpu, frame_of(leaf.spte), generation_of(leaf.spte))
        await mark("MMIO spte used")
        return FaultResult.EMULATE

    async def install_mmio(self, vcpu: VcpuState, page: ShadowPage, walk: GuestWalk) -> None:
        """Put a marker in the place of an access without memory. Holds: mmu_lock."""
        generation = await slots_of(self.mmu).stamp()
        marker = make_marker(walk.gfn, generation)
        await self.set_marker(vcpu, page, table_index(walk.gva, 1), marker)
        await self.remember(vcpu, walk.gfn, generation)

    async def set_marker(self, vcpu: VcpuState, page: ShadowPage, index: int, marker: int) -> None:
        """What was mapped there goes first, from the rmap and from all TLBs."""
        await self.mmu.set_spte.replace(vcpu, page, index, marker)

    async def remember(self, vcpu: VcpuState, gfn: int, generation: int) -> None:
        """For the emulator, which comes next."""
        assert isinstance(vcpu, Vcpu)
        await vcpu.last_mmio.set(LastMmio(gfn, generation))


class Emulator(memslots.Emulator):
    """Asks what the fault found."""

    async def has_memory(self, vcpu: VcpuState, gfn: Gfn) -> bool:
        """Whether there is a page to do an access of ``vcpu`` in. In a section of ``srcu``."""
        assert isinstance(vcpu, Vcpu)
        last = await vcpu.last_mmio
        if last.gfn == gfn and await slots_of(self.mmu).is_current(last.generation):
            return False
        return await super().has_memory(vcpu, gfn)


class Zap(zap.Zap):
    """Clears markers, which are in no rmap and in no TLB."""

    async def drop_spte(self, page: ShadowPage, level: int, index: int) -> bool:
        """Clear one spte with what depends on it; whether it was present."""
        if level == 1 and is_marker(await page[index]):
            await page.set_spte(index, 0)
            return False
        return await super().drop_spte(page, level, index)


class Host(memslots.Host):
    """Userspace that has changed the slots often."""

    async def bump_generation(self, events: tuple[Event, ...]) -> None:
        """When the number comes round no marker may be left. Holds: slots_lock."""
        slots = await self._slots.memslots
        if (slots.generation + 1) % GENERATIONS == 0:
            await self.zap_markers()
        await super().bump_generation(events)

    async def zap_markers(self) -> None:
        """Zap all pages, hence all markers."""
        await mark("MMIO generations come round")
        await self.zap_all()


def slots_of(mmu: ShadowMmu) -> Memslots:
    """The memslots of a machine with this feature."""
    assert isinstance(mmu.slots, Memslots)
    return mmu.slots


SPEC = Feature(
    title="frames without memory have marker sptes, which a fault finds without a lock",
    source="KVM f8f559422b6c (3.11), ee3d1570b586 (3.17), 152482580a1b (5.1)",
    since="3.11",
    eras=("5.15", "2026"),
    needs=("memslots", "lockless-walk"),
    locks={"mmu_lock": "held while a marker is made"},
)
