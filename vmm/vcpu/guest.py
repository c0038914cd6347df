"""What a guest program can do on its vCPU: the instructions of the model.

A guest program is ``async def f(cpu: Guest) -> None``. A page fault of the guest's own comes back
as a ``GuestFault`` value. gvas are bytes; an access stays within one aligned 8-byte word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmm.bits import A, D
from vmm.engine.ops import fence, mark
from vmm.engine.world import ModelObject
from vmm.errors import UsageError
from vmm.hw.access import AccessKind, GuestFault
from vmm.hw.layout import WINDOW, Page
from vmm.hw.memory import merge
from vmm.units import ENTRY_BYTES, Gfn, Gpa, Gva, gfn_to_gpa, page_offset, word_of
from vmm.vcpu.run_loop import Translation
from vmm.vcpu.vcpu import Apic

if TYPE_CHECKING:
    from vmm.vcpu.vcpu import Vcpu, Vm


class Guest(ModelObject):
    """vCPU ``number`` as its guest program sees it."""

    def __init__(self, vm: Vm, vcpu: Vcpu) -> None:
        self.vm = vm
        self.vcpu = vcpu
        self.number = vcpu.number

    @property
    def params(self) -> Mapping[str, int | str]:
        """The parameters of the scenario."""
        return self.vm.params

    # --- memory ---

    async def load(self, gva: int, *, user: bool = False) -> int | GuestFault:
        """Load the word at ``gva``."""
        return await self._read(Gva(gva), AccessKind(user=user))

    async def fetch(self, gva: int, *, user: bool = False) -> int | GuestFault:
        """Fetch an instruction from ``gva``."""
        return await self._read(Gva(gva), AccessKind(user=user, fetch=True))

    async def _read(self, gva: Gva, kind: AccessKind) -> int | GuestFault:
        found = await self.vm.loop.translate(self.vcpu, gva, kind)
        if isinstance(found, GuestFault):
            return found
        assert found is not None, "only a store is ever emulated"
        event = found.access(self.vcpu, gva, write=False)
        return await self.vm.mmu.memory.word(found.hpa(gva)).read(event=event)

    async def store(
        self, gva: int, value: int, *, user: bool = False, size: int = ENTRY_BYTES
    ) -> GuestFault | None:
        """Store ``size`` bytes at ``gva``; emulated if that is a shadowed page table.

        Errors: UsageError if it crosses an aligned 8-byte word.
        """
        _check_place(gva, size)
        kind = AccessKind(write=True, user=user)
        found = await self.vm.loop.translate(self.vcpu, Gva(gva), kind)
        if isinstance(found, GuestFault):
            return found
        if found is None:
            return await self._emulate_store(Gva(gva), value, kind, size)
        await self._store_natively(found, Gva(gva), value, size)
        return None

    async def _store_natively(self, found: Translation, gva: Gva, value: int, size: int) -> None:
        word = self.vm.mmu.memory.word(found.hpa(gva))
        event = found.access(self.vcpu, gva, write=True)
        if size == ENTRY_BYTES:
            await word.set(value, event=event)
        else:
            await word.update(merge, value, gva - word_of(gva), size, event=event)

    async def _emulate_store(
        self, gva: Gva, value: int, kind: AccessKind, size: int
    ) -> GuestFault | None:
        """KVM's emulator: translate again in software, store, let the shadow follow."""
        mmu = self.vm.mmu
        walk = await mmu.walker.walk(self.vcpu, gva, kind)
        if isinstance(walk, GuestFault):
            return walk
        await mark("store emulated")
        gpa = Gpa(gfn_to_gpa(walk.gfn) + page_offset(gva))
        await mmu.pte_write.emulated_store(self.vcpu, gpa, value, size)
        return None

    async def touch(
        self, gva: int, *, user: bool = False, write: bool = False, fetch: bool = False
    ) -> GuestFault | None:
        """Access a page without changing it. A write to a shadowed table ends at the trap."""
        found = await self.vm.loop.translate(self.vcpu, Gva(gva), AccessKind(write, user, fetch))
        if isinstance(found, Translation):
            event = found.access(self.vcpu, Gva(gva), write=write)
            await self.vm.mmu.memory.word(found.hpa(Gva(gva))).read(event=event)
            return None
        return found

    async def store_unemulated(self, gva: int, value: int) -> GuestFault | None:
        """A store by an instruction that the emulator does not know.

        If it hits a shadowed table the table is unprotected and the instruction runs natively. A
        table that is part of the walk to itself livelocks: the fault that lets the store through
        shadows it again. KVM of the time did so too.
        """
        kind = AccessKind(write=True)
        while True:
            found = await self.vm.loop.translate(self.vcpu, Gva(gva), kind)
            if isinstance(found, GuestFault):
                return found
            if found is not None:
                await self._store_natively(found, Gva(gva), value, ENTRY_BYTES)
                return None
            walk = await self.vm.mmu.walker.walk(self.vcpu, Gva(gva), kind)
            if isinstance(walk, GuestFault):
                return walk
            async with self.vm.mmu.lock:
                await mark("table unprotected")
                writable = await self.vm.mmu.zap.zap_gfn(self.vcpu, walk.gfn)
            if not writable:
                raise UsageError(
                    f"the store to {gva:#x} cannot be emulated and its table is a root in use: "
                    "KVM fails such a guest; let the scenario write another table"
                )

    # --- the guest's own page tables ---

    async def store_pte(
        self,
        gva: int,
        *,
        frame: int | None = None,
        writable: bool = True,
        user: bool = True,
        no_execute: bool = False,
        space: str | None = None,
        level: int = 1,
    ) -> GuestFault | None:
        """Write the gpte of ``gva`` (None: not present), through the guest's map of its tables."""
        page = None if frame is None else Page(frame, writable, user, no_execute)
        value = 0 if page is None else page.entry() & ~(0 if level == 1 else A | D)
        return await self.store(self.window(gva, space, level), value)

    def window(self, gva: int, space: str | None = None, level: int = 1) -> Gva:
        """Where the guest has the gpte of ``gva`` mapped."""
        layout = self.vm.layout
        name = next(iter(layout.roots)) if space is None else space
        return Gva(WINDOW + layout.gpte(name, Gva(gva), level))

    async def invlpg(self, gva: int) -> None:
        """Drop the translation of a page."""
        await self.vm.loop.invlpg(self.vcpu, Gva(gva))

    async def mov_cr3(self, space: str | int) -> None:
        """Load cr3 with the root of a space (or a guest frame): an exit."""
        root = self.vm.layout.roots[space] if isinstance(space, str) else Gfn(space)
        await self.vm.loop.leave(self.vcpu, "cr3 load")
        await self.vm.mmu.roots.switch(self.vcpu, root)

    # --- barriers and interrupts ---

    async def mfence(self) -> None:
        """A full memory barrier."""
        await fence()

    async def send_ipi(self, number: int) -> None:
        """Interrupt another vCPU: a write to the APIC, which exits."""
        target = self.vm.vcpus[number]
        await self.vm.loop.leave(self.vcpu, "apic write")
        await target.apic.update(_request)
        await self.vm.loop.kick(target)

    async def wait_for_interrupt(self) -> None:
        """Halt until this vCPU has handled an interrupt."""
        await self.vm.loop.halt(self.vcpu)

    async def wait_for(self, gva: int, value: int) -> None:
        """Spin until the word at ``gva`` is ``value``."""
        while await self.load(gva) != value:
            pass

    async def mark(self, goal: str) -> None:
        """Reach a goal of the scenario."""
        await mark(goal)


def _check_place(gva: int, size: int) -> None:
    if size < 1 or gva % ENTRY_BYTES + size > ENTRY_BYTES:
        raise UsageError(
            f"a store of {size} bytes at {gva:#x} does not lie within one aligned word of "
            f"{ENTRY_BYTES} bytes: split it"
        )


def _request(apic: Apic) -> tuple[Apic, None]:
    return apic._replace(requested=True), None
