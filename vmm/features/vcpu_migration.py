"""vCPU migration: the host moves a vCPU's thread to another pCPU, which has a TLB of its own.

    vCPU 0                                 host (flushes; the spte is changed)
    runs on pCPU 0, whose TLB has the spte
    exits; its thread moves to pCPU 1
    loads: vcpu->cpu := 1, and since that is another one: requests0 |= TLB_FLUSH
    flushes pCPU 1, enters
                                           requests0 |= TLB_FLUSH
                                           cpu = vcpu->cpu, read once: IPI to pCPU 1, wait
    exits; flushes pCPU 1 alone
    exits; its thread moves back to pCPU 0
    loads: requests0 |= TLB_FLUSH
    flushes pCPU 0: what it left there is gone

Translations are tagged by VPID, so a pCPU keeps those of a vCPU that has gone. No flush reaches
them, since flushes go to where the vCPU is. What makes that right is the flush at each arrival.

A flusher makes its request first and then reads where the vCPU is, once: wherever it goes after
that read, it looks at its requests before it runs the guest. vcpu->cpu is KVM's record, written at
the load; where the thread runs is the host scheduler's affair.

A thread may move whenever interrupts are on. Here it does so at the start of an entry alone, once,
so that nobody is moved about for ever. Only pCPUs on which no other vCPU's thread lives are moved
to: two vCPUs never share one, so switches between them are left out.

Source: KVM 4b9ac285e253 (2022, RISC-V); OpenBSD 46cd802afa2f (INVEPT on migration);
vcpu-requests.rst; Intel SDM vol. 3, 28.3 (VPID). That KVM for x86 has done so since it tagged
translations with VPIDs, in 2.6.26, is recalled: a doubt.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from vmm.engine.ops import atomically, choose, mark
from vmm.features import Feature
from vmm.hw import pcpu as hw_pcpu
from vmm.hw import tlb as tlbs
from vmm.hw.events import TlbFlush
from vmm.hw.tlb import Tlb
from vmm.vcpu import run_loop
from vmm.vcpu import vcpu as vcpus
from vmm.vcpu.flush import flusher_of
from vmm.vcpu.requests import TLB_FLUSH

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.events import Event, EventSpec
    from vmm.engine.monitor import View
    from vmm.engine.world import World
    from vmm.hw.access import AccessKind
    from vmm.hw.paging import Controls, PagingRegisters
    from vmm.hw.pcpu import Boundary
    from vmm.hw.tlb import TlbEntry
    from vmm.mmu.mmu import ShadowMmu
    from vmm.units import Gva, Pfn


NO_PCPU = -1
"""vcpu->cpu of a vCPU that is loaded nowhere. Here each is loaded from the start."""


class Pcpu(hw_pcpu.Pcpu):
    """Keeps translations of several vCPUs."""

    def used_by(self, vcpu: int) -> Pcpu:
        """This pCPU with the VPID of a vCPU; it says what it does in that vCPU's name."""
        made = copy(self)
        made.number, made.vpid = vcpu, vcpu + 1
        return made

    async def flush(self) -> None:
        """Drop the entries of the VPID that is in use."""
        await self.drop_upper()
        await self.tlb.update(_drop_vpid, self.vpid, event=TlbFlush(self.number))


class CurrentPcpu(hw_pcpu.Pcpu):
    """Whichever of ``pcpus`` a vCPU runs on: ``thread`` says where, ``cpu`` is KVM's record of it.

    Ops: one read, then those of the pCPU.
    """

    def __init__(self, pcpus: tuple[Pcpu, ...], thread: Cell[int], cpu: Cell[int]) -> None:
        self.pcpus = pcpus
        self.thread = thread
        self.cpu = cpu
        self.number = pcpus[0].number
        self.tagged = pcpus[0].tagged

    async def here(self) -> Pcpu:
        """The pCPU of the moment; only the vCPU's own thread may ask."""
        return self.pcpus[await self.thread]

    async def send_ipi(self) -> tuple[hw_pcpu.Pcpu, ...]:
        """Interrupt the pCPU that KVM believes the vCPU to be on, if any: by one read."""
        cpu = await self.cpu
        return () if cpu == NO_PCPU else await self.pcpus[cpu].send_ipi()

    async def is_in_host(self) -> bool:
        return await (await self.here()).is_in_host()

    async def interrupts_off(self, event: EventSpec = None, *, serialising: bool = False) -> None:
        await (await self.here()).interrupts_off(event, serialising=serialising)

    async def interrupts_on(self, event: EventSpec = None) -> None:
        await (await self.here()).interrupts_on(event)

    async def run_guest(self, event: Event | None = None) -> None:
        await (await self.here()).run_guest(event)

    async def at_boundary(
        self, gva: Gva, root: Cell[Any], registers: Cell[PagingRegisters]
    ) -> Boundary:
        return await (await self.here()).at_boundary(gva, root, registers)

    async def walk(
        self,
        top: int,
        root: Pfn,
        gva: Gva,
        kind: AccessKind,
        controls: Controls,
        pcid: int = 0,
    ) -> TlbEntry | None:
        return await (await self.here()).walk(top, root, gva, kind, controls, pcid)

    async def invalidate(self, gva: Gva, *events: Event) -> None:
        await (await self.here()).invalidate(gva, *events)

    async def flush(self) -> None:
        await (await self.here()).flush()

    async def flush_pcid(self, pcid: int) -> None:
        await (await self.here()).flush_pcid(pcid)


class Vcpu(vcpus.Vcpu):
    """A vCPU that does not stay where it is."""

    def __init__(
        self,
        world: World,
        number: int,
        pcpus: tuple[Pcpu, ...],
        mmu: ShadowMmu,
        registers: PagingRegisters,
    ) -> None:
        super().__init__(world, number, pcpus, mmu, registers)
        self.thread = world.cell(
            f"thread of v{number}", number, marked=True, observable=False, format=_pcpu
        )
        self.cpu = world.cell(
            f"cpu of v{number}", number, marked=True, observable=False, format=_pcpu
        )
        own = tuple([pcpu.used_by(number) for pcpu in pcpus])
        self.pcpu = CurrentPcpu(own, self.thread, self.cpu)
        self.place = (self.cpu,)

    def pcpu_in(self, view: View) -> hw_pcpu.Pcpu:
        """Where its thread is."""
        return current(self).pcpus[view[self.thread]]


class RunLoop(run_loop.RunLoop):
    """Loads the vCPU where it finds itself."""

    async def enter(self, vcpu: vcpus.Vcpu) -> None:
        """Into the guest, here or elsewhere."""
        await self.schedule(migrating(vcpu))
        await super().enter(vcpu)

    async def schedule(self, vcpu: Vcpu) -> None:
        """The host's scheduler: leaves the thread, or moves it to a pCPU that is free."""
        here = current(vcpu)
        distance = await choose(len(here.pcpus))
        if distance and await atomically(
            _move, (vcpu.thread,), distance, len(here.pcpus), reads=others(vcpu)
        ):
            await mark("vCPU moved")
            await self.load(vcpu)

    async def load(self, vcpu: Vcpu) -> None:
        """The thread runs on another pCPU than before: kvm_arch_vcpu_load."""
        await self.arrive(vcpu)
        await vcpu.cpu.set(await vcpu.thread)

    async def arrive(self, vcpu: Vcpu) -> None:
        """Forget what an earlier stay has left in the TLB here."""
        await flusher_of(vcpu.mmu).make_request(vcpu, TLB_FLUSH)


def migrating(vcpu: vcpus.Vcpu) -> Vcpu:
    """A vCPU of a machine with this feature."""
    assert isinstance(vcpu, Vcpu)
    return vcpu


def current(vcpu: Vcpu) -> CurrentPcpu:
    """Where such a vCPU runs."""
    assert isinstance(vcpu.pcpu, CurrentPcpu)
    return vcpu.pcpu


def others(vcpu: Vcpu) -> tuple[Cell[int], ...]:
    """Where the threads of the other vCPUs are."""
    return tuple([migrating(v).thread for v in flusher_of(vcpu.mmu).vcpus if v is not vcpu])


def _drop_vpid(tlb: Tlb, vpid: int) -> tuple[Tlb, None]:
    return tlbs.drop_vpid(tlb, vpid), None


def _move(*places: int) -> tuple[tuple[int], bool]:
    """``places``: of the other threads, of this one; then how far it moves, and the pCPUs."""
    *taken, here, distance, count = places
    there = (here + distance) % count
    free = there not in taken
    return (there if free else here,), free


def _pcpu(number: int) -> str:
    return "none" if number == NO_PCPU else f"pCPU {number}"


SPEC = Feature(
    title="the host moves vCPUs between pCPUs, each with a TLB of its own",
    source="KVM 4b9ac285e253 (2022, RISC-V); vcpu-requests.rst; Intel SDM vol. 3, 28.3 (VPID)",
    since="2.6.26",
    requests={"TLB_FLUSH": "made of itself by a vCPU that arrives on another pCPU"},
)
