"""A physical CPU: TLB, interrupt state, inter-processor interrupts, and its page walker.

An IPI is asynchronous: the sender sends it, and an eventual hardware task lets it arrive later. A
pCPU in the host with interrupts on takes it as it arrives (which acknowledges it). With interrupts
off it stays pending, and is taken before anything else once they are on; in guest mode it makes
the guest exit at the next instruction boundary.

    sender                        delivery (eventual)             target
    ipi := sent
                                  target runs the guest:
                                  irq := EXITING, ipi := pending
                                                                  boundary: sees EXITING, exits
                                                                  irq := ON
                                                                  takes it: ipi := none
    sees ipi = none: acknowledged

Source: Intel SDM vol. 3, 10.8 (interrupt acceptance), 25.2 (external-interrupt exits).
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from vmm.bits import U, W, combine, frame_of, is_walkable
from vmm.engine.ops import atomically, choose, observe
from vmm.engine.world import ModelObject, World
from vmm.hw import tlb as tlbs
from vmm.hw.access import AccessKind
from vmm.hw.events import Invlpg, TlbFlush, WalkRead
from vmm.hw.paging import Controls, PagingRegisters, grants
from vmm.hw.tlb import StructureCaches, Tlb, TlbEntry, UpperEntry, format_tlb, tag_of
from vmm.units import Gva, Pfn, page_number, table_index

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.events import Event, EventSpec

EntryCell = Callable[[int, int], "Cell[int]"]
"""The cell of entry ``index`` of the table in host frame ``pfn``."""


class Irq(enum.Enum):
    """What an interrupt that arrives now would meet."""

    ON = "host, interrupts on"
    OFF = "host, interrupts off"
    GUEST = "guest"
    EXITING = "guest, exit pending"


class Ipi(enum.Enum):
    """How far an IPI to this pCPU has come. One that is sent while another is pending joins it."""

    NONE = "none"
    SENT = "sent"
    PENDING = "pending"


class Boundary(NamedTuple):
    """What the processor knows at an instruction boundary.

    ``root`` is its hypervisor's affair; the processor has its ``pcid`` in CR3.
    """

    irq: Irq
    entry: TlbEntry | None
    root: Any
    controls: Controls


class Pcpu(ModelObject):
    """One physical CPU. What it caches is tagged with ``vpid`` and the guest's PCID.

    ``table_entry`` is how its walker reads paging structures; the machine provides it.
    ``caches``: its paging-structure caches, if the machine has them.
    """

    def __init__(
        self,
        world: World,
        number: int,
        *,
        tagged: bool,
        table_entry: EntryCell,
        structure_caches: bool = False,
    ) -> None:
        self.number = number
        self.vpid = number + 1
        self.tagged = tagged
        self.table_entry = table_entry
        self.irq = world.cell(
            f"irq{number}", Irq.ON, marked=True, observable=False, buffered=False, format=_value
        )
        self.ipi = world.cell(
            f"ipi{number}", Ipi.NONE, marked=True, observable=False, buffered=False, format=_value
        )
        self.tlb: Cell[Tlb] = world.cell(
            f"tlb{number}", (), marked=True, observable=False, buffered=False, format=format_tlb
        )
        self.caches: Cell[StructureCaches] | None = None
        if structure_caches:
            self.caches = world.cell(
                f"structure caches {number}",
                (),
                marked=True,
                observable=False,
                buffered=False,
                format=tlbs.format_caches,
            )

    # --- interrupts ---

    async def deliver_ipis(self) -> None:
        """The eventual task that delivers IPIs to this pCPU."""
        while True:
            await atomically(_deliver, (self.irq, self.ipi), when=_is_sent)

    async def send_ipi(self) -> tuple[Pcpu, ...]:
        """Interrupt this pCPU, from another one; nobody waits for it. Gives who is interrupted.

        All earlier stores come first, as with every locked op: an uncached write to the APIC drains
        the store buffer, and for x2APIC, whose register writes do not serialise, Linux puts a fence
        before it.
        """
        await self.ipi.update(_send)
        return (self,)

    async def is_in_host(self) -> bool:
        """Whether this pCPU, to whose thread we belong, is in the host with interrupts on."""
        return await self.irq is Irq.ON

    def interrupts_off(
        self, event: EventSpec = None, *, serialising: bool = False
    ) -> Awaitable[None]:
        """Leave the guest, or CLI in the host: what arrives from here on stays pending."""
        return self.irq.set(Irq.OFF, event=event, serialising=serialising)

    async def interrupts_on(self, event: EventSpec = None) -> None:
        """STI in the host: a pending IPI is taken before anything else; interrupts drain stores."""
        if await atomically(_turn_on, (self.irq,), reads=(self.ipi,), event=event):
            await self.ipi.set(Ipi.NONE, serialising=True)

    async def run_guest(self, event: Event | None = None) -> None:
        """Run the guest: a pending IPI makes it exit before its first instruction."""
        await atomically(_run_guest, (self.irq,), reads=(self.ipi,), event=event)

    # --- translation ---

    def at_boundary(
        self, gva: Gva, root: Cell[Any], registers: Cell[PagingRegisters]
    ) -> Awaitable[Boundary]:
        """Interrupt state, cached translation of ``gva``, registers: all this pCPU's own."""
        cells = (self.irq, self.tlb, root, registers)
        return observe(_look, cells, self.vpid, page_number(gva))

    async def walk(
        self,
        top: int,
        root: Pfn,
        gva: Gva,
        kind: AccessKind,
        controls: Controls,
        pcid: int = 0,
    ) -> TlbEntry | None:
        """Walk paging structures from a table of level ``top`` down, one op a level; cache the end.

        None if an entry is not present or the rights do not permit the access. Sets no A or D
        bits: the structures it walks have them set from the start (KVM makes its sptes so).
        """
        tag = tag_of(self.vpid, pcid)
        top, table, rights = await self._start(top, root, tag, gva)
        for level in range(top, 1, -1):
            below = await self._read_upper(table, rights, tag, gva, level)
            if below is None:
                return None
            table, rights = below
        return await self._read_leaf(table, rights, (tag, gva), kind, controls)

    async def _start(self, top: int, root: Pfn, tag: int, gva: Gva) -> tuple[int, Pfn, int]:
        """Level, table and rights to begin with: at the root, or below a cached entry."""
        if self.caches is not None:
            cached = await observe(tlbs.starts, (self.caches,), tag, gva, top)
            chosen = await choose(len(cached) + 1) if cached else 0
            if chosen:
                upper = cached[chosen - 1]
                return upper.level - 1, Pfn(upper.table), upper.rights
        return top, root, W | U

    async def _read_upper(
        self, table: Pfn, rights: int, tag: int, gva: Gva, level: int
    ) -> tuple[Pfn, int] | None:
        """Read an entry of an upper level; cache it if there is where to.

        Gives the table that it leads to, and the rights with its own; None if it leads nowhere.
        """
        cell = self.table_entry(table, table_index(gva, level))
        event = WalkRead(self.number, table, gva, level)
        if self.caches is None:
            entry = await cell.read(event=event)
            return (Pfn(frame_of(entry)), combine(rights, entry)) if is_walkable(entry) else None
        place = (tag, gva, level)
        upper = await atomically(
            _fill_upper_from, (self.caches,), place, rights, reads=(cell,), event=event
        )
        return None if upper is None else (Pfn(upper.table), upper.rights)

    def _read_leaf(
        self,
        table: Pfn,
        rights: int,
        place: tuple[int, Gva],
        kind: AccessKind,
        controls: Controls,
    ) -> Awaitable[TlbEntry | None]:
        tag, gva = place
        # Read and fill in one op: nobody but this pCPU ever looks into its TLB.
        return atomically(
            _fill_from,
            (self.tlb,),
            (tag, page_number(gva)),
            rights,
            kind,
            controls,
            reads=(self.table_entry(table, table_index(gva, 1)),),
            event=WalkRead(self.number, table, gva, 1),
        )

    async def invlpg(self, gva: Gva) -> None:
        """Drop the entries of one page, and all that is cached of upper levels.

        That of every PCID, as INVVPID does for KVM. An INVLPG that runs natively meets one only.
        """
        await self.invalidate(gva, Invlpg(self.number, gva))

    async def invalidate(self, gva: Gva, *events: Event) -> None:
        """Drop a page on behalf of the guest; ``events``: what the guest did, if it is now."""
        await self.drop_upper()
        events = (TlbFlush(self.number), *events)
        await self.tlb.update(_drop_page, self.vpid, page_number(gva), event=events)

    async def flush(self) -> None:
        """Drop all entries: they have one tag, or none."""
        await self.drop_upper()
        await self.tlb.set((), event=TlbFlush(self.number), serialising=True)

    async def flush_pcid(self, pcid: int) -> None:
        """Drop the entries of one PCID."""
        await self.drop_upper()
        await self.tlb.update(_drop_tag, tag_of(self.vpid, pcid), event=TlbFlush(self.number))

    async def drop_upper(self) -> None:
        """Drop what is cached of upper levels."""
        if self.caches is not None:
            await self.caches.update(_drop_upper, self.vpid)


def _value(member: enum.Enum) -> str:
    return str(member.value)


def _send(ipi: Ipi) -> tuple[Ipi, None]:
    return (Ipi.SENT if ipi is Ipi.NONE else ipi), None


def _is_sent(irq: Irq, ipi: Ipi) -> bool:
    del irq
    return ipi is Ipi.SENT


def _deliver(irq: Irq, ipi: Ipi) -> tuple[tuple[Irq, Ipi], None]:
    del ipi
    if irq is Irq.ON:
        return (irq, Ipi.NONE), None
    return (Irq.EXITING if irq is Irq.GUEST else irq, Ipi.PENDING), None


def _turn_on(ipi: Ipi, irq: Irq) -> tuple[tuple[Irq], bool]:
    del irq
    return (Irq.ON,), ipi is Ipi.PENDING


def entered(ipi: Ipi) -> Irq:
    """The guest runs, and leaves at once if an IPI is pending."""
    return Irq.EXITING if ipi is Ipi.PENDING else Irq.GUEST


def _run_guest(ipi: Ipi, irq: Irq) -> tuple[tuple[Irq], None]:
    del irq
    return (entered(ipi),), None


def _look(
    irq: Irq, tlb: Tlb, root: Any, registers: PagingRegisters, vpid: int, page: int
) -> Boundary:
    entry = tlbs.lookup(tlb, tag_of(vpid, root.pcid), page)
    return Boundary(irq, entry, root, registers.controls)


def _drop_page(tlb: Tlb, vpid: int, page: int) -> tuple[Tlb, None]:
    return tlbs.drop_page(tlb, vpid, page), None


def _drop_tag(tlb: Tlb, tag: int) -> tuple[Tlb, None]:
    return tlbs.drop_tag(tlb, tag), None


def _drop_upper(caches: StructureCaches, vpid: int) -> tuple[StructureCaches, None]:
    return tlbs.drop_vpid(caches, vpid), None


def _upper(entry: int, tag: int, gva: Gva, level: int, rights: int) -> UpperEntry | None:
    if not is_walkable(entry):
        return None
    prefix = tlbs.prefix_of(gva, level)
    return UpperEntry(tag, level, prefix, frame_of(entry), combine(rights, entry))


def _fill_upper_from(
    entry: int, caches: StructureCaches, place: tuple[int, Gva, int], rights: int
) -> tuple[tuple[StructureCaches], UpperEntry | None]:
    upper = _upper(entry, *place, rights)
    return (caches if upper is None else tlbs.fill_upper(caches, upper),), upper


def _fill_from(
    entry: int,
    tlb: Tlb,
    place: tuple[int, int],
    rights: int,
    kind: AccessKind,
    controls: Controls,
) -> tuple[tuple[Tlb], TlbEntry | None]:
    rights = combine(rights, entry)
    if not is_walkable(entry) or not grants(rights, kind, controls):
        return (tlb,), None
    filled = TlbEntry(*place, frame_of(entry), rights)
    return (tlbs.fill(tlb, filled),), filled
