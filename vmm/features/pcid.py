"""PCIDs: the guest switches between address spaces without a flush, and the shadow follows.

The root of the address space before is kept. A MOV CR3 that leads back to it makes it the root
again, with no lock; with bit 63 set nothing is synced or flushed either. The processor tags what it
caches with the guest's PCID, which KVM puts into CR3 beside the shadow root.

    vCPU 0 (guest)                         KVM
    runs on A, PCID 1
    MOV CR3: B, PCID 2, bit 63: exits
                                           keeps the root of A; loads that of B
    MOV CR3: A, PCID 1, bit 63: exits
                                           the root of A again; keeps that of B
    uses A through what is cached of PCID 1
    MOV CR3: B, PCID 2: exits
                                           the root of B again
                                           requests MMU_SYNC, TLB_FLUSH_CURRENT
                                           entry: syncs B, flushes PCID 2

The two requests mean what the vCPU runs on when they are served, so they come after the switch
(1438921c6dc1). A root that is neither in use nor kept owes nothing: whoever loads it syncs and
flushes.

No spte is global, so what the guest maps global is cached under every PCID that used it. INVLPG
concerns global pages of any PCID: it drops the page of every PCID, and the spte below the kept root
too, without looking whether the guest's entry was global.

INVPCID exits. Of one page, it does what INVLPG does, whatever the PCID; of one PCID, it syncs and
flushes if the PCID is in use, and lets go of the kept root if it is that one's; of all, it lets go
of both roots.

Departs from KVM: one root is kept, not three, and only with CR4.PCIDE. A TLB_FLUSH_CURRENT is
served by PCID, where VMX flushes the whole VPID.

Source: KVM 1438921c6dc1 (4.20), 9f46c187e2e6 (kvm_mmu_invpcid_gva, which looks at kept roots); that
kept roots and PCIDs came with 4.19 is recalled: a doubt. Intel SDM vol. 3, 4.10.1, 4.10.4.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from vmm.engine.ops import atomically, mark
from vmm.features import Feature, unsync
from vmm.features.mmu_reload import take_request
from vmm.features.unsync import shadowing_of
from vmm.hw.access import GeneralProtection
from vmm.hw.control import CR3_KEEPS, PCID_MASK, is_cr3_refused
from vmm.hw.events import Invpcid, InvpcidType, RegistersWritten
from vmm.mmu.api import NO_PAGE, NO_ROOT, Root
from vmm.units import Gva
from vmm.vcpu import control, guest
from vmm.vcpu import vcpu as vcpus
from vmm.vcpu.flush import flusher_of
from vmm.vcpu.requests import MMU_SYNC, TLB_FLUSH_CURRENT

if TYPE_CHECKING:
    from vmm.engine.events import Event
    from vmm.engine.world import World
    from vmm.hw.paging import PagingRegisters
    from vmm.hw.pcpu import Pcpu
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu


class TaggedRoot(NamedTuple):
    """A root with the PCID under which the processor caches what it finds below it."""

    level: int
    pages: tuple[int, ...]
    pcid: int

    def page(self, gva: Gva) -> int:
        """As ``Root.page``: there is one, for all of memory."""
        del gva
        return self.pages[0]


class Kept(NamedTuple):
    """The root of before, for a guest that comes back to ``cr3``."""

    cr3: int
    root: Root

    @property
    def pages(self) -> tuple[int, ...]:
        """The shadow page that is kept."""
        return self.root.pages


NOTHING = Kept(-1, NO_ROOT)


class Vcpu(vcpus.Vcpu):
    """A vCPU that may turn PCIDs on, and keeps the root of the address space before."""

    def __init__(
        self,
        world: World,
        number: int,
        pcpus: tuple[Pcpu, ...],
        mmu: ShadowMmu,
        registers: PagingRegisters,
    ) -> None:
        super().__init__(world, number, pcpus, mmu, registers)
        self.pcide = world.cell(f"pcide of v{number}", False, buffered=False)
        self.kept = world.cell(
            f"kept root of v{number}", NOTHING, marked=True, buffered=False, format=_format_kept
        )
        self.roots = (self.root, self.kept)


class Roots(unsync.Roots):
    """Keeps one root more than is in use."""

    async def made(
        self, vcpu: VcpuState, registers: PagingRegisters, pages: tuple[int, ...]
    ) -> Root:
        """With the PCID beside it, for the processor's CR3."""
        root = await super().made(vcpu, registers, pages)
        if not await with_pcids(vcpu).pcide:
            return root
        return cast("Root", TaggedRoot(root.level, root.pages, registers.cr3 & PCID_MASK))

    async def switch_space(self, vcpu: Vcpu, written: RegistersWritten) -> None:
        """MOV CR3 with PCIDs: first the root, then what is owed to its PCID."""
        await self.exchange(vcpu, written)
        if not written.keeps:
            await self.invalidate_pcid(vcpu, written.new.cr3 & PCID_MASK)

    async def exchange(self, vcpu: Vcpu, written: RegistersWritten) -> None:
        """The new registers with their root, if it is the one in use or the kept one."""
        if written.old.cr3 == written.new.cr3:
            await vcpu.registers.set(written.new, event=written)
        elif (await vcpu.kept).cr3 == written.new.cr3:
            await mark("kept root used")
            await self.keep_current(vcpu, written)
        else:
            async with self.mmu.lock:
                await self.release_kept(vcpu)
                await self.keep_current(vcpu, written)

    async def keep_current(self, vcpu: Vcpu, written: RegistersWritten) -> None:
        """The root in use becomes the kept one; the kept one, or none, that in use."""
        cells = (vcpu.root, vcpu.kept, vcpu.registers)
        await atomically(_exchange, cells, written.new, event=written)

    async def invalidate_pcid(self, vcpu: Vcpu, pcid: int) -> None:
        """What lies below roots of this PCID must be as the guest's tables before it is used."""
        kept = await vcpu.kept
        if kept != NOTHING and kept.cr3 & PCID_MASK == pcid:
            await self.forget_kept(vcpu)
        if (await vcpu.registers).cr3 & PCID_MASK == pcid:
            flusher = flusher_of(vcpu.mmu)
            await flusher.make_request(vcpu, MMU_SYNC)
            await flusher.make_request(vcpu, TLB_FLUSH_CURRENT)

    async def sync_all(self, vcpu: VcpuState) -> None:
        """The kept root too: by letting go of it, as its next load syncs it. KVM syncs it here."""
        await super().sync_all(vcpu)
        await self.forget_kept(with_pcids(vcpu))

    async def free(self, vcpu: VcpuState) -> None:
        """Let go of both roots."""
        await super().free(vcpu)
        await self.forget_kept(with_pcids(vcpu))

    async def forget_kept(self, vcpu: Vcpu) -> None:
        """Let go of the kept root, if there is one. Holds: nothing at the start."""
        if await vcpu.kept != NOTHING:
            async with self.mmu.lock:
                await self.release_kept(vcpu)

    async def release_kept(self, vcpu: Vcpu) -> None:
        """The same. Holds: mmu_lock."""
        kept = await vcpu.kept
        if kept == NOTHING:
            return
        pages = [self.mmu.cache.pages[number] for number in kept.pages if number != NO_PAGE]
        for page in pages:
            await page.root_count.update(_less)
        await vcpu.kept.set(NOTHING)
        for page in pages:
            await self.released(vcpu, page)


class Shadowing(unsync.Shadowing):
    """An invalidated page may be a global one."""

    async def invlpg(self, vcpu: VcpuState, gva: Gva, *events: Event) -> None:
        """Drop its spte below the kept root too."""
        await super().invlpg(vcpu, gva, *events)
        if await with_pcids(vcpu).kept != NOTHING:
            async with self.mmu.lock:
                await self.invlpg_root(vcpu, (await with_pcids(vcpu).kept).root, gva)


class RunLoop(unsync.RunLoop):
    """Serves one request more."""

    async def serve_requests(self, vcpu: vcpus.Vcpu) -> None:
        """The root is loaded, so this flushes what belongs to it."""
        await super().serve_requests(vcpu)
        if await vcpu.requests.update(take_request, TLB_FLUSH_CURRENT):
            await flush_current(vcpu)


class ControlRegisters(control.ControlRegisters):
    """MOV CR3 with PCIDs, CR4.PCIDE, INVPCID."""

    async def load_cr3(
        self, vcpu: vcpus.Vcpu, old: PagingRegisters, value: int
    ) -> GeneralProtection | None:
        """Bit 63 is not stored."""
        own = with_pcids(vcpu)
        if not await own.pcide:
            return await super().load_cr3(vcpu, old, value)
        new = old._replace(cr3=value & ~CR3_KEEPS)
        if is_cr3_refused(new.cr3, old.controls):
            return GeneralProtection(value)
        written = RegistersWritten(
            vcpu.number,
            old,
            new,
            mov_cr3=True,
            pcids=(old.cr3 & PCID_MASK, new.cr3 & PCID_MASK),
            keeps=bool(value & CR3_KEEPS),
        )
        await roots_of(vcpu).switch_space(own, written)
        return None

    async def change(
        self, vcpu: vcpus.Vcpu, reason: str, **bits: bool | None
    ) -> GeneralProtection | None:
        """Paging stays on as long as there are PCIDs."""
        if bits.get("pg") is False and await with_pcids(vcpu).pcide:
            await self.loop.leave(vcpu, reason)
            return GeneralProtection(0)
        return await super().change(vcpu, reason, **bits)

    async def set_pcide(self, vcpu: Vcpu, *, on: bool) -> GeneralProtection | None:
        """Turn PCIDs on, which is refused outside long mode and with a PCID in CR3; or off."""
        await self.loop.leave(vcpu, "cr4 write")
        registers = await vcpu.registers
        if on:
            if not registers.controls.long_mode or registers.cr3 & PCID_MASK:
                return GeneralProtection(0)
            await vcpu.pcide.set(True)
        elif await vcpu.pcide:
            await roots_of(vcpu).free(vcpu)
            pcids = (registers.cr3 & PCID_MASK, 0)
            written = RegistersWritten(
                vcpu.number, registers, registers, mov_cr3=False, pcids=pcids, pcids_off=True
            )
            await vcpu.pcide.set(False, event=written)
        return None

    async def invpcid(self, vcpu: Vcpu, what: InvpcidType, pcid: int, gva: Gva) -> None:
        """Invalidate what the type says, or more."""
        await self.loop.leave(vcpu, "invpcid")
        current = (await vcpu.registers).cr3 & PCID_MASK if await vcpu.pcide else 0
        done = Invpcid(vcpu.number, what, pcid, gva, current)
        if what is InvpcidType.ADDRESS:
            await shadowing_of(vcpu.mmu).invlpg(vcpu, gva, done)
            await vcpu.pcpu.invalidate(gva)
            return
        await mark(done)
        if what is InvpcidType.PCID and await vcpu.pcide:
            await roots_of(vcpu).invalidate_pcid(vcpu, pcid)
        else:
            await roots_of(vcpu).free(vcpu)


class Guest(guest.Guest):
    """A guest that is told of PCIDs."""

    async def set_pcide(self, on: bool) -> GeneralProtection | None:
        """MOV to CR4 with PCIDE changed: an exit."""
        return await self._control.set_pcide(with_pcids(self.vcpu), on=on)

    async def load_pcid(
        self, space: str | int, pcid: int, *, keeps: bool = False
    ) -> GeneralProtection | None:
        """MOV CR3 with a PCID; ``keeps``: bit 63, nothing need be invalidated. An exit."""
        value = self.cr3_of(space) | pcid | (CR3_KEEPS if keeps else 0)
        return await self._control.mov_cr3(self.vcpu, value)

    async def invpcid(self, what: InvpcidType, *, pcid: int = 0, gva: int = 0) -> None:
        """INVPCID: an exit."""
        await self._control.invpcid(with_pcids(self.vcpu), what, pcid, Gva(gva))

    @property
    def _control(self) -> ControlRegisters:
        assert isinstance(self.vm.control, ControlRegisters)
        return self.vm.control


async def flush_current(vcpu: vcpus.Vcpu) -> None:
    """Flush what the processor caches under the PCID of the root that is loaded."""
    await vcpu.pcpu.flush_pcid((await vcpu.root).pcid)


def with_pcids(vcpu: VcpuState) -> Vcpu:
    """A vCPU of a machine with this feature."""
    assert isinstance(vcpu, Vcpu)
    return vcpu


def roots_of(vcpu: vcpus.Vcpu) -> Roots:
    """The roots of such a machine."""
    assert isinstance(vcpu.mmu.roots, Roots)
    return vcpu.mmu.roots


def _exchange(
    root: Root, kept: Kept, registers: PagingRegisters, new: PagingRegisters
) -> tuple[tuple[Root, Kept, PagingRegisters], None]:
    found = kept.root if kept.cr3 == new.cr3 else NO_ROOT
    former = NOTHING if root == NO_ROOT else Kept(registers.cr3, root)
    return (found, former, new), None


def _less(count: int) -> tuple[int, None]:
    return count - 1, None


def _format_kept(kept: Kept) -> str:
    return "none" if kept == NOTHING else f"sp{kept.pages[0]} for cr3 {kept.cr3:#x}"


SPEC = Feature(
    title="guests may use PCIDs; the root of the address space before is kept",
    source="KVM 1438921c6dc1 (4.20), 9f46c187e2e6; Intel SDM vol. 3, 4.10.1, 4.10.4.1",
    since="4.19",
    needs=("unsync",),
    locks={"mmu_lock": "held while a kept root is let go of"},
    requests={
        "TLB_FLUSH_CURRENT": "flush the PCID of the root that is loaded; made of itself by MOV CR3"
    },
)
