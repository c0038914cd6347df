"""What a guest program can do on its vCPU: the instructions of the model.

A guest program is ``async def f(cpu: Guest) -> None``. A page fault of the guest's own comes back
as a ``GuestFault`` value. gvas are bytes; a load reads the aligned 8-byte word at its address.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmm.bits import NX, A, D, U, W
from vmm.engine.ops import fence, mark
from vmm.engine.world import ModelObject
from vmm.errors import UsageError, missing_feature
from vmm.hw.access import AccessKind, GeneralProtection, GuestFault
from vmm.hw.events import InvpcidType
from vmm.hw.layout import WINDOW, Page
from vmm.hw.memory import CACHE_LINE_BYTES, atomic_parts, cut
from vmm.hw.paging import FORMATS
from vmm.mmu.emulator import OPERAND_BYTES_MAX, EmulationFailed
from vmm.units import ENTRY_BYTES, PAGE_BYTES, Gva, gfn_to_gpa
from vmm.vcpu.apic import Apic
from vmm.vcpu.run_loop import ANY_GVA
from vmm.vcpu.translation import Translation

if TYPE_CHECKING:
    from vmm.hw.paging import PagingRegisters
    from vmm.vcpu.vcpu import Vcpu, Vm

STORE_BYTES_MAX = 16
"""An SSE register."""

Refused = GuestFault | EmulationFailed
"""Why a store did not happen: the guest's own fault, or the end of the VM."""


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
        return await self._read_through(found, gva, kind)

    async def _read_through(self, found: Translation, gva: Gva, kind: AccessKind) -> int:
        event = found.access(self.vcpu, gva, kind)
        return await self.vm.mmu.memory.word(found.hpa(gva)).read(event=event)

    async def store(
        self, gva: int, value: int, *, user: bool = False, size: int = ENTRY_BYTES
    ) -> Refused | None:
        """Store 1 to 16 bytes at any address; emulated if that is a shadowed page table.

        Errors: UsageError if there is no such operand.
        """
        return await self._store(Gva(gva), value, AccessKind(write=True, user=user), size)

    async def store_unemulated(self, gva: int, value: int, *, size: int = 8) -> Refused | None:
        """A store by an instruction that the emulator does not know.

        If it hits a shadowed table the table is unprotected and the instruction runs natively.
        """
        return await self._store(Gva(gva), value, AccessKind(write=True), size, emulated=False)

    async def _store(
        self, gva: Gva, value: int, kind: AccessKind, size: int, *, emulated: bool = True
    ) -> Refused | None:
        _check_size(size)
        emulator = self.vm.mmu.emulator
        while True:
            found = await self._translate(gva, size, kind)
            if isinstance(found, GuestFault):
                return found
            if found is not None:
                await self._store_natively(found, gva, value, size, kind)
                return None
            if emulated and size <= OPERAND_BYTES_MAX:
                return await emulator.store(self.vcpu, gva, value, size, kind)
            failed = await emulator.unprotect(self.vcpu, gva, size, kind)
            if failed is not None:
                return failed

    async def _translate(
        self, gva: Gva, size: int, kind: AccessKind
    ) -> tuple[Translation, ...] | GuestFault | None:
        """The translation of each page that an operand touches."""
        pages = cut(gva, size, PAGE_BYTES)
        if len(pages) > 1:
            first, second = Gva(pages[0].address), Gva(pages[1].address)
            return await self.vm.loop.translate_both(self.vcpu, first, second, kind)
        found = await self.vm.loop.translate(self.vcpu, gva, kind)
        return (found,) if isinstance(found, Translation) else found

    async def _store_natively(
        self, found: tuple[Translation, ...], gva: Gva, value: int, size: int, kind: AccessKind
    ) -> None:
        for part, translation in zip(cut(gva, size, PAGE_BYTES), found, strict=True):
            for piece in atomic_parts(part.address, part.size):
                hpa = translation.hpa(Gva(piece.address))
                event = translation.access(self.vcpu, Gva(piece.address), kind)
                await self.vm.mmu.memory.store(
                    hpa, piece.of(part.of(value)), piece.size, event=event
                )

    async def store_string(self, gva: int, value: int, size: int, times: int) -> Refused | None:
        """REP STOS: ``times`` stores of ``size`` bytes (1 to 8), aligned, within one page.

        It goes by cache lines, each at once: one translation, and no interrupt but in between.
        What is emulated goes by single stores. Source: Intel SDM vol. 1, 7.3.9.3 (fast strings);
        that a group is a line, and reaches memory at once, is our choice.

        Errors: UsageError if the string does not begin and end at words.
        """
        kind, at, end = AccessKind(write=True), Gva(gva), gva + size * times
        if at % ENTRY_BYTES or end % ENTRY_BYTES or ENTRY_BYTES % size:
            raise UsageError(
                f"a string of {times} times {size} bytes at {gva:#x} is no string of words"
            )
        word = int.from_bytes(value.to_bytes(size, "little") * (ENTRY_BYTES // size), "little")
        while at < end:
            found = await self.vm.loop.translate(self.vcpu, at, kind)
            if isinstance(found, GuestFault):
                return found
            if found is None:
                failed = await self.vm.mmu.emulator.store(self.vcpu, at, value, size, kind)
                if failed is not None:
                    return failed
                at = Gva(at + size)
                continue
            line = min(end, at - at % CACHE_LINE_BYTES + CACHE_LINE_BYTES)
            event = found.access(self.vcpu, at, kind)
            words = (line - at) // ENTRY_BYTES
            await self.vm.mmu.memory.fill(found.hpa(at), word, words, event=event)
            at = Gva(line)
        return None

    async def compare_exchange(
        self, gva: int, old: int, new: int, *, user: bool = False
    ) -> bool | GuestFault:
        """Locked CMPXCHG of the word at ``gva``; whether ``new`` was stored.

        Errors: UsageError if the word is not aligned (the model has no split locks).
        """
        if gva % ENTRY_BYTES:
            raise UsageError(f"an exchange at {gva:#x} is not aligned to {ENTRY_BYTES} bytes")
        kind = AccessKind(write=True, user=user)
        found = await self.vm.loop.translate(self.vcpu, Gva(gva), kind)
        if isinstance(found, GuestFault):
            return found
        if found is None:
            return await self.vm.mmu.emulator.compare_exchange(self.vcpu, Gva(gva), old, new, kind)
        event = found.access(self.vcpu, Gva(gva), kind)
        return await self.vm.mmu.memory.word(found.hpa(Gva(gva))).cas(old, new, event=event)

    async def touch(
        self, gva: int, *, user: bool = False, write: bool = False, fetch: bool = False
    ) -> GuestFault | None:
        """Access a page without changing it. A write to a shadowed table ends at the trap."""
        kind = AccessKind(write, user, fetch)
        found = await self.vm.loop.translate(self.vcpu, Gva(gva), kind)
        if isinstance(found, Translation):
            event = found.access(self.vcpu, Gva(gva), kind)
            await self.vm.mmu.memory.word(found.hpa(Gva(gva))).read(event=event)
            return None
        return found

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
    ) -> Refused | None:
        """Write the gpte of ``gva`` (None: not present), through the guest's map of its tables."""
        form = FORMATS[self.vm.layout.mode(self._space(space))]
        page = None if frame is None else Page(frame, writable, user, no_execute)
        value = 0 if page is None else page.entry() & ~(0 if level == 1 else A | D)
        if form.pdptes and level == form.root_level:
            value &= ~(W | U | NX)  # reserved there
        return await self.store(self.window(gva, space, level), value, size=form.entry_bytes)

    def window(self, gva: int, space: str | None = None, level: int = 1) -> Gva:
        """Where the guest has the gpte of ``gva`` mapped."""
        return Gva(WINDOW + self.vm.layout.gpte(self._space(space), Gva(gva), level))

    def _space(self, space: str | None) -> str:
        return next(iter(self.vm.layout.roots)) if space is None else space

    async def invlpg(self, gva: int) -> None:
        """Drop the translation of a page."""
        await self.vm.loop.invlpg(self.vcpu, Gva(gva))

    # --- control registers ---

    async def mov_cr3(self, space: str | int) -> GeneralProtection | None:
        """Load cr3 with the root of a space, or with a value: an exit."""
        return await self.vm.control.mov_cr3(self.vcpu, self.cr3_of(space))

    def cr3_of(self, space: str | int) -> int:
        """The address of a space's root, or a value as it is."""
        roots = self.vm.layout.roots
        return gfn_to_gpa(roots[space]) if isinstance(space, str) else space

    async def set_pcide(self, on: bool) -> GeneralProtection | None:
        """MOV to CR4 with PCIDE changed: an exit."""
        raise _missing("pcid")

    async def load_pcid(
        self, space: str | int, pcid: int, *, keeps: bool = False
    ) -> GeneralProtection | None:
        """MOV CR3 with a PCID; ``keeps``: bit 63, nothing need be invalidated. An exit."""
        raise _missing("pcid")

    async def invpcid(self, what: InvpcidType, *, pcid: int = 0, gva: int = 0) -> None:
        """INVPCID: an exit."""
        raise _missing("pcid")

    async def mov_cr0(
        self, *, pg: bool | None = None, wp: bool | None = None
    ) -> GeneralProtection | None:
        """Change bits of CR0: an exit. PG without LME and LA57 turns on the mode that PAE says."""
        return await self.vm.control.change(self.vcpu, "cr0 write", pg=pg, wp=wp)

    async def mov_cr4(
        self,
        *,
        pse: bool | None = None,
        pae: bool | None = None,
        pge: bool | None = None,
        la57: bool | None = None,
        smep: bool | None = None,
        smap: bool | None = None,
        pke: bool | None = None,
    ) -> GeneralProtection | None:
        """Change bits of CR4: an exit."""
        bits = {"pse": pse, "pae": pae, "pge": pge, "la57": la57}
        return await self.vm.control.change(
            self.vcpu, "cr4 write", **bits, smep=smep, smap=smap, pke=pke
        )

    async def wrmsr_efer(
        self, *, lme: bool | None = None, nxe: bool | None = None
    ) -> GeneralProtection | None:
        """Change bits of IA32_EFER: an exit."""
        return await self.vm.control.change(self.vcpu, "efer write", lme=lme, nxe=nxe)

    async def set_ac(self, on: bool) -> None:
        """STAC or CLAC: EFLAGS.AC lifts SMAP. Runs natively."""
        await self.vm.loop.to_boundary(self.vcpu, ANY_GVA)
        await self.vcpu.registers.update(_set_ac, on)

    async def flush_preempted(self, number: int) -> bool:
        """Have another vCPU flush before it runs again; False if it runs and wants an IPI."""
        raise _missing("pv-flush")

    async def close(self) -> None:
        """The last thing that happens on this vCPU: userspace closes it."""
        raise UsageError(
            'a vCPU is closed only to destroy the VM: give the machine features=("teardown",)'
        )

    # --- what userspace and KVM do for it ---

    async def pre_fault(self, gva: int) -> bool:
        """Userspace has a page mapped before the guest needs it; whether that was possible."""
        raise _missing("pre-fault")

    async def send_event(self, gfn: int, value: int) -> None:
        """A hypercall, for which KVM itself stores to the first word of a frame."""
        raise _missing("gfn-pfn-cache")

    # --- barriers and interrupts ---

    async def boundary(self) -> None:
        """An instruction that touches nothing: the vCPU can be interrupted before it."""
        await self.vm.loop.to_boundary(self.vcpu, ANY_GVA)

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


def _missing(feature: str) -> UsageError:
    return missing_feature("the guest", feature)


def _check_size(size: int) -> None:
    if not 1 <= size <= STORE_BYTES_MAX:
        raise UsageError(f"a store of {size} bytes: the largest operand has {STORE_BYTES_MAX}")


def _set_ac(registers: PagingRegisters, on: bool) -> tuple[PagingRegisters, None]:
    return registers._replace(controls=registers.controls._replace(ac=on)), None


def _request(apic: Apic) -> tuple[Apic, None]:
    return apic._replace(requested=True), None
