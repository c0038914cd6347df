"""The dirty log: which frames the guest wrote since userspace last asked (live migration).

    vCPU 0 (guest)                         host thread (KVM_GET_DIRTY_LOG)
    writes g through a writable spte
                                           acquire mmu_lock
                                           take the bitmap, leaving it empty: g is in it
                                           clear W of every spte in rmap[g]
    still writes g through its TLB         request a flush of all vCPUs, wait
                                           release mmu_lock; tell userspace: g
    writes g: faults
    acquire mmu_lock; set g in the bitmap
    give W back; release

A frame is logged when it becomes writable, so later writes need no trap until the log is next read.
The bitmap is taken and emptied in one step: a bit set between a copy and a clearing would be lost.
Userspace copies the pages after the call, so what is written until the flush is over is covered.
The flush comes before the release: who finds W clear must be able to trust that no TLB has it.

Logging is always on. Not logged are the A and D bits that KVM sets in gptes (bf3f8e86c2, 2007).

Source: KVM 90cb0529dd (2007), 171d595d3b3 (2008, flush under mmu_lock), 95d4c16ce78c and
6dbf79e7164e (2012, bitmap taken atomically, flush before the release).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import P, W
from vmm.engine.events import Event
from vmm.engine.ops import mark
from vmm.features import Feature
from vmm.mmu import emulator, memslots, pte_write, spte
from vmm.units import Gfn, Gpa, gpa_to_gfn, with_number
from vmm.vcpu import host

if TYPE_CHECKING:
    from vmm.engine.cells import Lock
    from vmm.engine.world import World
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import ShadowPage, SpteRef

Gfns = tuple[int, ...]


class DirtyLogTaken(Event, frozen=True):
    """The bitmap was taken: these frames will be told to userspace."""

    gfns: Gfns


class DirtyLogRead(Event, frozen=True):
    """KVM_GET_DIRTY_LOG returned these frames."""

    gfns: Gfns


class LocklessWritable(Event, frozen=True):
    """A vCPU made a frame writable without mmu_lock; it logs it before it enters the guest."""

    vcpu: int
    gfn: Gfn


class Memslots(memslots.Memslots):
    """``dirty`` is the bitmap, as the gfns whose bits are set: locked updates only."""

    def __init__(self, world: World, lock: Lock) -> None:
        super().__init__(world, lock)
        self.dirty = world.cell("dirty bitmap", Gfns(), format=_format)

    async def mark_dirty(self, gfn: int) -> None:
        """Log a frame (mark_page_dirty). Holds: nothing; a locked update."""
        await self.dirty.update(_set_bit, gfn)


class SetSpte(spte.SetSpte):
    """What becomes writable is logged."""

    async def replace(self, me: VcpuState | None, page: ShadowPage, index: int, new: int) -> None:
        """Log first, then map: both under mmu_lock."""
        if new & P and new & W:
            await slots_of(self.mmu).mark_dirty(self.gfn(new))
        await super().replace(me, page, index, new)


class PteWrite(pte_write.PteWrite):
    """Emulated stores are logged."""

    async def store(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """Log what was stored."""
        await super().store(vcpu, gpa, value, size)
        await slots_of(self.mmu).mark_dirty(gpa_to_gfn(gpa))


class Emulator(emulator.Emulator):
    """Emulated exchanges are logged."""

    async def exchange(self, vcpu: VcpuState, gpa: Gpa, seen: int, new: int) -> bool:
        """Log what was exchanged."""
        won = await super().exchange(vcpu, gpa, seen, new)
        if won:
            await slots_of(self.mmu).mark_dirty(gpa_to_gfn(gpa))
        return won


class Host(host.Host):
    """Userspace that migrates the guest."""

    async def get_dirty_log(self) -> tuple[int, ...]:
        """The frames that were written since the last call; their mappings are read-only now."""
        mmu = self.vm.mmu
        await mmu.lock.acquire()
        gfns = await self.take_bitmap()
        lost = await self.write_protect(gfns)
        if lost:
            await mark("dirty page write-protected")
        if lost or await mmu.shadowing.flush_owed():
            await mmu.flusher.flush_remote(None)
        await mmu.lock.release(event=(DirtyLogRead(gfns), *mmu.release_events))
        return gfns

    async def take_bitmap(self) -> Gfns:
        """Take the bitmap and leave it empty, in one step."""
        return await slots_of(self.vm.mmu).dirty.update(_take, event=DirtyLogTaken)

    async def write_protect(self, gfns: Gfns) -> bool:
        """Take W from all sptes of these frames; whether any had it. Holds: mmu_lock."""
        lost = False
        for gfn in gfns:
            for ref in await self.vm.mmu.rmap.chains[Gfn(gfn)]:
                lost = await self.clear_dirty(ref) or lost
        return lost

    async def clear_dirty(self, ref: SpteRef) -> bool:
        """Take W from one spte; the result says whether it had it."""
        return await self.vm.mmu.shadowing.clear_writable(ref)


def slots_of(mmu: ShadowMmu) -> Memslots:
    """The memslots of a machine with this feature."""
    assert isinstance(mmu.slots, Memslots)
    return mmu.slots


def _format(gfns: Gfns) -> str:
    return ", ".join(f"gfn {gfn:#x}" for gfn in gfns) or "none"


def _set_bit(gfns: Gfns, gfn: int) -> tuple[Gfns, None]:
    return with_number(gfns, gfn), None


def _take(gfns: Gfns) -> tuple[Gfns, Gfns]:
    return (), gfns


SPEC = Feature(
    title="a log of the frames that the guest wrote, read and cleared by userspace",
    source="KVM 90cb0529dd (2.6.23), 171d595d3b3 (2.6.28), 6dbf79e7164e (3.4)",
    since="2.6.28",
    eras=("3.6", "5.15", "2026"),
    locks={"mmu_lock": "held from taking the bitmap until no TLB holds a writable translation"},
)
