"""Walks ahead of a vCPU's processor, in either form (``vmm.hw.speculation``): the wiring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from vmm.bits import U, W
from vmm.engine.ops import atomically, choose
from vmm.engine.task import TaskKind
from vmm.errors import UsageError
from vmm.hw.pcpu import Irq
from vmm.hw.speculation import FORMS, Ahead, AheadPcpu, MayPcpu, note_stores
from vmm.mmu.api import NO_PAGE, Root
from vmm.units import Gva

if TYPE_CHECKING:
    from vmm.engine.world import World
    from vmm.vcpu.vcpu import Vcpu, Vm

PCPUS: Mapping[str, Mapping[str, Sequence[type]]] = MappingProxyType(
    {"none": {}, "may": {"Pcpu": (MayPcpu,)}, "tasks": {"Pcpu": (AheadPcpu,)}}
)
"""The classes of each form, by the component's name."""


def check(form: str, memory_model: str) -> None:
    """Errors: no such form, or store buffers, whose drains nobody notes."""
    if form not in FORMS:
        raise UsageError(f"unknown speculative_fills {form!r}: choose {', '.join(FORMS)}")
    if form != "none" and memory_model == "tso":
        raise UsageError(
            f"speculative_fills={form} is not modeled with store buffers: leave memory_model at sc"
        )


def speculate(world: World, vm: Vm, form: str, gvas: Sequence[int]) -> None:
    """Have the processors of a machine walk ahead; ``tasks``: to these addresses."""
    if form == "may":
        tables = tuple([page.pfn for page in vm.mmu.cache.pages])
        note_stores(world, vm.mmu.cache.sptes, tables, vm.pcpus)
    elif form == "tasks" and gvas:
        for vcpu in vm.vcpus:
            ahead_of(vcpu)
            addresses = tuple([Gva(gva) for gva in gvas])
            name = f"v{vcpu.number} walks ahead"
            world.task(name, walk_ahead, vcpu, addresses, kind=TaskKind.OPTIONAL)


async def walk_ahead(vcpu: Vcpu, gvas: tuple[Gva, ...]) -> None:
    """The optional task: any of the addresses, as long as the guest runs."""
    pcpu, pages = ahead_of(vcpu), vcpu.mmu.cache.pages
    while True:
        gva = gvas[await choose(len(gvas))] if len(gvas) > 1 else gvas[0]
        reads = (pcpu.irq, vcpu.root)
        level, page, pcid = await atomically(
            _begin, (pcpu.ahead,), gva, reads=reads, when=_runs_guest
        )
        if page != NO_PAGE:
            await pcpu.walk_ahead(level, pages[page].pfn, gva, pcid)


def ahead_of(vcpu: Vcpu) -> AheadPcpu:
    """The pCPU of a vCPU. Errors: it moves between several."""
    if not isinstance(vcpu.pcpu, AheadPcpu):
        raise UsageError("speculative_fills=tasks: not with vCPUs that move; choose may")
    return vcpu.pcpu


def _runs_guest(irq: Irq, root: Root, ahead: Ahead | None) -> bool:
    del root, ahead
    return irq is Irq.GUEST


def _begin(
    irq: Irq, root: Root, ahead: Ahead | None, gva: Gva
) -> tuple[tuple[Ahead], tuple[int, int, int]]:
    del irq, ahead
    return (Ahead(0, W | U),), (root.level, root.page(gva), root.pcid)
