"""KVM's instruction emulator, as far as writes to shadowed tables need it.

    vCPU 0 (its store trapped)             vCPU 1
    translate in software, unlocked
                                           may change the gptes on the way: as a processor that
                                           had translated before
    store to guest memory
    acquire mmu_lock; the shadow follows; release

What the emulator does not know, it cannot do: then the table is unprotected and the instruction
runs natively. If the table stays shadowed, KVM_RUN fails.

Source: KVM da4a00f002, a436036baf, 32b3562735 (2007); daea3e73cb (2010, a real exchange).
Departs from KVM for a store that crosses a page: here both pages are translated before anything is
stored, as a processor does; KVM stored to the first page, then translated the second.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from vmm.engine.events import Event
from vmm.engine.ops import mark
from vmm.engine.world import ModelObject
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.events import Exchange
from vmm.hw.memory import Part, cut
from vmm.mmu.api import EmulatedStore
from vmm.units import ENTRY_BYTES, PAGE_BYTES, Gpa, Gva, gfn_to_gpa, page_offset

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu

OPERAND_BYTES_MAX = 8
"""A larger operand, such as an SSE register, was beyond the emulator of the time."""


class EmulationFailed(NamedTuple):
    """KVM_RUN failed: the instruction at ``gva`` can be neither emulated nor run natively."""

    gva: int


class Emulator(ModelObject):
    """Emulates what trapped. Holds: nothing at the start."""

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    async def store(
        self, vcpu: VcpuState, gva: Gva, value: int, size: int, kind: AccessKind
    ) -> GuestFault | None:
        """Store up to 8 bytes at any address; page by page, if there are two."""
        targets: tuple[tuple[Gpa, Part], ...] = ()
        for part in cut(gva, size, PAGE_BYTES):
            gpa = await self.translate(vcpu, Gva(part.address), kind)
            if isinstance(gpa, GuestFault):
                return gpa
            targets = (*targets, (gpa, part))
        await mark("store emulated")
        for gpa, part in targets:
            await self.mmu.pte_write.emulated_store(vcpu, gpa, part.of(value), part.size)
        return None

    async def translate(self, vcpu: VcpuState, gva: Gva, kind: AccessKind) -> Gpa | GuestFault:
        """Where an operand lies, by the guest's own tables."""
        walk = await self.mmu.walker.walk(vcpu, gva, kind)
        if isinstance(walk, GuestFault):
            return walk
        return Gpa(gfn_to_gpa(walk.gfn) + page_offset(gva))

    # --- locked instructions ---

    async def compare_exchange(
        self, vcpu: VcpuState, gva: Gva, old: int, new: int, kind: AccessKind
    ) -> bool | GuestFault:
        """CMPXCHG of an aligned 8-byte word; whether ``new`` was stored."""
        gpa = await self.translate(vcpu, gva, kind)
        if isinstance(gpa, GuestFault):
            return gpa
        await mark("exchange emulated")
        while True:
            seen = await self.mmu.memory.word(gpa)
            if seen != old:
                return False
            if await self.exchange(vcpu, gpa, seen, new):
                await self.mmu.pte_write.follow(vcpu, gpa, new, ENTRY_BYTES)
                return True

    async def exchange(self, vcpu: VcpuState, gpa: Gpa, seen: int, new: int) -> bool:
        """Put ``new`` in the place of what the emulator read; False: somebody else was faster."""
        event = partial(exchanged, gpa, seen, vcpu.number)
        return await self.mmu.memory.word(gpa).cas(seen, new, event=event)

    # --- what cannot be emulated ---

    async def unprotect(
        self, vcpu: VcpuState, gva: Gva, size: int, kind: AccessKind
    ) -> GuestFault | EmulationFailed | None:
        """Unshadow the tables under an operand; None: the instruction may now run natively.

        A table that is part of the walk to itself livelocks: the fault that lets the store through
        shadows it again. KVM of the time did so too.
        """
        for part in cut(gva, size, PAGE_BYTES):
            walk = await self.mmu.walker.walk(vcpu, Gva(part.address), kind)
            if isinstance(walk, GuestFault):
                return walk
            async with self.mmu.lock:
                await mark("table unprotected")
                writable = await self.mmu.zap.zap_gfn(vcpu, walk.gfn)
            if not writable:
                await mark("emulation failed")
                return EmulationFailed(part.address)
        return None


def exchanged(gpa: Gpa, seen: int, vcpu: int, won: bool | None) -> tuple[Event, ...]:
    """What an exchange means; nothing if somebody else was faster."""
    return () if won is False else (Exchange(gpa, seen), EmulatedStore(gpa, vcpu))
