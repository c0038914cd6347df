"""Emulated guest writes to page tables: store; lock; update.

The store reaches memory before the lock is taken, so two emulated writes may take the lock in the
other order. The shadow is therefore updated from what memory holds under the lock.

    vCPU 0                                 vCPU 1
    store gpte = A
                                           store gpte = B
                                           acquire mmu_lock; shadow := memory (B); release
    acquire mmu_lock; shadow := memory (B, not A); release

The third write in a row to one table is taken for a fork or an exit: the whole page is zapped, and
the table is written natively from then on.

Source: KVM 9b7a032567, 0e7bc4b961, 86a5ba025d (2007); 0028425f64 (2007, update instead of zap);
0e0fee5c539b (2018, read the gpte under the lock; 2.6.25 used the value that it wrote).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import A, D, P, combine, frame_of
from vmm.engine.ops import mark
from vmm.engine.world import ModelObject
from vmm.hw.memory import cut, part_of
from vmm.hw.paging import reserved_bits
from vmm.mmu.api import EmulatedStore, EmulatedStoreDone, LastPtWrite
from vmm.mmu.memslots import pfn_of
from vmm.mmu.role import Role
from vmm.units import ENTRY_BYTES, Gfn, Gpa, gpa_to_gfn, word_of

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import ShadowPage

FLOOD_WRITES = 3
"""Emulated writes in a row to one table that count as a flood. KVM 86a5ba025d."""
ALIGNED_BYTES_MIN = 4
"""A shorter write zaps the page, as one that straddles two gptes does."""


class PteWrite(ModelObject):
    """Emulated stores to shadowed tables. Holds: nothing at the start."""

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    async def emulated_store(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """Store up to 8 bytes within one page, then let the shadow follow."""
        await self.store(vcpu, gpa, value, size)
        await self.follow(vcpu, gpa, value, size)

    async def follow(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """Bring the shadow up to date with what was stored. Holds: nothing at the start."""
        await self.mmu.lock.acquire()
        await self.update_and_release(vcpu, gpa, value, size)

    async def update_and_release(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """What is done under the lock, up to its release. Holds: mmu_lock."""
        await self.update_shadow(vcpu, gpa, value, size)
        words = [word_of(part.address) for part in cut(gpa, size, ENTRY_BYTES)]
        done = [EmulatedStoreDone(Gpa(word), vcpu.number) for word in words]
        await self.mmu.lock.release(event=(*done, *self.mmu.release_events))

    async def store(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """Change guest memory. Holds: nothing; the shadow is out of date until the update.

        Ops: one a word: the emulator copies bytes, so what straddles two words is not atomic.
        """
        for part in cut(gpa, size, ENTRY_BYTES):
            event = EmulatedStore(Gpa(word_of(part.address)), vcpu.number)
            await self.mmu.memory.store(part.address, part.of(value), part.size, event=event)

    async def update_shadow(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """Bring every shadow of the written table up to date. Holds: mmu_lock."""
        gfn = gpa_to_gfn(gpa)
        await self.mmu.recycle.free_some(vcpu)
        flooded = await self.is_flooded(vcpu, gfn)
        if flooded:
            await mark("write flood")
        for role, number in await self.mmu.cache.shadows(gfn):
            page = self.mmu.cache.pages[number]
            if not role.has_gptes:
                continue
            if flooded or self.is_misaligned(role, gpa, size):
                await self.mmu.zap.zap_page(vcpu, page)
            else:
                await self.update_spte(vcpu, page, role, gpa, value)

    def is_misaligned(self, role: Role, gpa: Gpa, size: int) -> bool:
        """Whether the bytes may say nothing of one gpte. Source: KVM 0e7bc4b961 (2007)."""
        crosses = gpa // role.gpte_bytes != (gpa + size - 1) // role.gpte_bytes
        return crosses or size < ALIGNED_BYTES_MIN

    async def is_flooded(self, vcpu: VcpuState, gfn: Gfn) -> bool:
        """Count the writes in a row to one table."""
        last = await vcpu.last_pt_write
        count = min(last.writes + 1, FLOOD_WRITES) if last.gfn == gfn else 1
        await vcpu.last_pt_write.set(LastPtWrite(gfn, count))
        return count >= FLOOD_WRITES

    async def update_spte(
        self, vcpu: VcpuState, page: ShadowPage, role: Role, gpa: Gpa, value: int
    ) -> None:
        """Make the sptes follow their gpte: a leaf at once, a link by a later fault.

        A 32-bit gpte may be of another quadrant, and a 32-bit pde has two sptes.
        """
        indexes = role.indexes_of(gpa)
        if not indexes:
            return
        gpte = await self.current_gpte(role, gpa, value)
        if role.level > 1:
            dropped = False
            for index in indexes:
                dropped = await self.mmu.zap.drop_spte(page, role.level, index) or dropped
            if dropped:
                await self.mmu.flusher.flush_remote(vcpu)
        elif self.is_mappable(role, gpte) and not self.mmu.slots.host_paging:
            await self.mmu.set_spte.install(
                vcpu,
                page,
                indexes[0],
                pfn=pfn_of(frame_of(gpte), 0),
                rights=combine(role.access, gpte),
                dirty=bool(gpte & D),
            )
        else:
            await self.mmu.set_spte.replace(vcpu, page, indexes[0], 0)

    def is_mappable(self, role: Role, gpte: int) -> bool:
        """Whether a gpte may be mapped before anybody has used it."""
        return bool(gpte & P and gpte & A) and not gpte & reserved_bits(1, role.controls, leaf=True)

    async def current_gpte(self, role: Role, gpa: Gpa, value: int) -> int:
        """The gpte as memory holds it now. ``value`` is what this vCPU wrote, maybe long ago."""
        del value
        start = gpa - gpa % role.gpte_bytes
        return part_of(await self.mmu.memory.word(start), start, role.gpte_bytes)
