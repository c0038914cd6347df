"""Paravirtual TLB flush: a guest leaves a flush to a vCPU that is preempted, and sends no IPI.

KVM says in memory that it shares with the guest whether a vCPU is preempted. A guest that wants
such a vCPU to flush sets a flag beside it; KVM looks for the flag before the vCPU runs again.

    vCPU 0 (guest)                         vCPU 1 (host)
                                           interrupted at an instruction boundary, scheduled out:
                                           byte1 := PREEMPTED
    changes a gpte
    byte1 is PREEMPTED:
    cmpxchg(byte1, PREEMPTED,
            PREEMPTED | FLUSH_TLB): won
    sends no IPI, uses the page anew
                                           scheduled in: STEAL_UPDATE
                                           old = exchange(byte1, 0)
                                           FLUSH_TLB in old: sync the shadow, flush
                                           enters

The byte is taken by an exchange: a flag that is set between a read and a store would be lost
(8c6de56a42e0). To a guest a flush means that its tables are followed from then on, so the shadow is
synced with it (b53e84eed08b). And a vCPU is reported only if it was interrupted between two
instructions: one that is preempted while KVM emulates an instruction for it may go on with what it
has translated before (6cd88243c7e0).

Departs from KVM: the shared byte is a cell of its own, to which the guest has access without a
translation. The host preempts a vCPU at most once at each instruction boundary, and once within an
emulation. No era has it switched on, since a guest must ask for it.

Source: KVM 858a43aae236 and f38a7b75267f (2017, 4.16), 8c6de56a42e0 (2020), b53e84eed08b (2021),
6cd88243c7e0 (2022); the first hash is recalled.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from vmm.engine.events import Event, Goal
from vmm.engine.ops import choose, mark
from vmm.features import Feature, unsync
from vmm.features.mmu_reload import take_request
from vmm.features.unsync import roots_of
from vmm.hw.access import AccessKind, GuestFault
from vmm.mmu import emulator
from vmm.units import Gpa, Gva
from vmm.vcpu import guest
from vmm.vcpu import vcpu as vcpus
from vmm.vcpu.events import EmulatorTranslated, FlushDeferred
from vmm.vcpu.flush import flusher_of
from vmm.vcpu.requests import STEAL_UPDATE

if TYPE_CHECKING:
    from vmm.engine.world import World
    from vmm.hw.paging import PagingRegisters
    from vmm.hw.pcpu import Boundary, Pcpu
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu

PREEMPTED = 1 << 0
"""KVM_VCPU_PREEMPTED: the vCPU does not run."""
FLUSH_TLB = 1 << 1
"""KVM_VCPU_FLUSH_TLB: it must flush before it runs."""


class Vcpu(vcpus.Vcpu):
    """``preempted`` is the byte of the steal-time area that guest and host share."""

    def __init__(
        self,
        world: World,
        number: int,
        pcpus: tuple[Pcpu, ...],
        mmu: ShadowMmu,
        registers: PagingRegisters,
    ) -> None:
        super().__init__(world, number, pcpus, mmu, registers)
        self.preempted = world.cell(f"preempted {number}", 0, marked=True, format=_format)

    async def preempt(self, *, at_boundary: bool) -> None:
        """The host takes the processor away for a while. The vCPU is not in the guest."""
        await self.sched_out(at_boundary=at_boundary)
        await self.sched_in()

    async def sched_out(self, *, at_boundary: bool) -> None:
        """Say that the vCPU does not run, if no instruction is under way."""
        if self.may_report(at_boundary=at_boundary):
            await self.preempted.set(PREEMPTED)

    def may_report(self, *, at_boundary: bool) -> bool:
        """Whether others may take the vCPU for flushed as soon as they have asked for it."""
        return at_boundary

    async def sched_in(self) -> None:
        """It runs again, and looks at the byte before it enters the guest."""
        await flusher_of(self.mmu).make_request(self, STEAL_UPDATE)

    async def take_byte(self) -> int:
        """Say that the vCPU runs; what the byte was, in one step."""
        return await self.preempted.update(_take)


class RunLoop(unsync.RunLoop):
    """Preempts vCPUs, and flushes for the guest."""

    async def to_boundary(self, vcpu: vcpus.Vcpu, gva: Gva) -> Boundary:
        """An interrupt of the host may come first."""
        if not await vcpu.pcpu.is_in_host() and await choose(2):
            await self.exit(vcpu, "external interrupt")
            await preemptible(vcpu).preempt(at_boundary=True)
        return await super().to_boundary(vcpu, gva)

    async def serve_requests(self, vcpu: vcpus.Vcpu) -> None:
        """The flags of the guest come after KVM's own requests."""
        await super().serve_requests(vcpu)
        if not await vcpu.requests.update(take_request, STEAL_UPDATE):
            return
        if await preemptible(vcpu).take_byte() & FLUSH_TLB:
            await self.flush_for_guest(vcpu)

    async def flush_for_guest(self, vcpu: vcpus.Vcpu) -> None:
        """Do what the guest's own flush would do: follow its tables, then forget."""
        await roots_of(vcpu.mmu).sync_all(vcpu)
        await vcpu.pcpu.flush()


class Emulator(emulator.Emulator):
    """The host may preempt it, too."""

    async def translate(self, vcpu: VcpuState, gva: Gva, kind: AccessKind) -> Gpa | GuestFault:
        """Between the translation and the access that it is for."""
        found = await super().translate(vcpu, gva, kind)
        await mark(EmulatorTranslated(vcpu.number))
        if await choose(2):
            await preemptible(vcpu).preempt(at_boundary=False)
        return found


class Guest(guest.Guest):
    """A guest that knows that its vCPUs may be preempted."""

    async def flush_preempted(self, number: int) -> bool:
        """Have another vCPU flush before it runs again; False if it runs and wants an IPI."""
        byte = preemptible(self.vm.vcpus[number]).preempted
        seen = await byte
        if not seen & PREEMPTED:
            return False
        return await byte.cas(seen, seen | FLUSH_TLB, event=partial(_deferred, number))


def preemptible(vcpu: VcpuState) -> Vcpu:
    """A vCPU of a machine with this feature."""
    assert isinstance(vcpu, Vcpu)
    return vcpu


def _deferred(vcpu: int, won: bool) -> tuple[Event, ...]:
    """What the exchange means, if it is won."""
    return (FlushDeferred(vcpu), Goal("flush left to a preempted vCPU")) if won else ()


def _take(byte: int) -> tuple[int, int]:
    return 0, byte


def _format(byte: int) -> str:
    names = [
        name for bit, name in ((PREEMPTED, "PREEMPTED"), (FLUSH_TLB, "FLUSH_TLB")) if byte & bit
    ]
    return " ".join(names) or "runs"


SPEC = Feature(
    title="guests leave TLB flushes to vCPUs that are preempted",
    source="KVM f38a7b75267f (4.16), 8c6de56a42e0, b53e84eed08b, 6cd88243c7e0",
    since="4.16",
    needs=("unsync",),
    requests={"STEAL_UPDATE": "made of itself by a vCPU that is scheduled in"},
)
