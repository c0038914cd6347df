"""Audit: the root that a vCPU runs on is the shadow of what its registers name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import P, frame_of
from vmm.engine.cells import Cell
from vmm.engine.monitor import Audit, Finding, View
from vmm.engine.world import World
from vmm.hw.control import PDPTE_SHIFT, PDPTES, format_registers, root_gfn
from vmm.hw.paging import PagingMode, PagingRegisters
from vmm.mmu.api import NO_PAGE, NO_ROOT
from vmm.monitors import Oracle
from vmm.units import PAGE_SHIFT
from vmm.vcpu.vcpu import Vcpu, Vm

if TYPE_CHECKING:
    from typing import Any

    from vmm.mmu.shadow_page import Header

Place = tuple[int, int, int]
"""Frame, quadrant and number of levels of the guest's walk: what a root must shadow."""


class RootMatchesCr3(Audit):
    """Roots of all vCPUs against their registers, whenever mmu_lock is released.

    A vCPU without a root has nothing to match: it loads one before it enters.
    """

    name = "audit/root-matches-cr3"

    def __init__(self, vm: Vm) -> None:
        self.vcpus = vm.vcpus
        self.pages = vm.mmu.cache.pages

    def watched(self) -> tuple[Cell[Any], ...]:
        return tuple([cell for vcpu in self.vcpus for cell in (vcpu.root, vcpu.registers)])

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        return tuple([finding for vcpu in self.vcpus for finding in self._vcpu(vcpu, view)])

    def incremental(
        self, state: object, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del written
        return self.full(state, view)

    def _vcpu(self, vcpu: Vcpu, view: View) -> list[Finding]:
        root, registers = view[vcpu.root], view[vcpu.registers]
        if root == NO_ROOT:
            return []
        held = [None if n == NO_PAGE else _place(view[self.pages[n].header]) for n in root.pages]
        wanted = wanted_roots(registers)
        if held == wanted:
            return []
        message = (
            f"v{vcpu.number} runs on the shadows of {_describe(held)}, but its cr3 is "
            f"{format_registers(registers)}: {_describe(wanted)}"
        )
        return [SPEC.finding(self.name, message, vcpu.root.name, vcpu.registers.name)]


def _place(header: Header | None) -> Place | None:
    if header is None:
        return None
    role = header.role
    # A page of a long mode may have been made by the other one, if their levels are the same.
    return header.gfn, role.quadrant, role.level if role.glevels > 3 else role.glevels


def wanted_roots(registers: PagingRegisters) -> list[Place | None]:
    """What each root must shadow; None where a PDPTE is not present."""
    match registers.controls.mode:
        case PagingMode.NONE:
            quarter = PDPTE_SHIFT - PAGE_SHIFT
            return [(number << quarter, 0, 0) for number in range(PDPTES)]
        case PagingMode.BITS32:
            return [(root_gfn(registers), number, 2) for number in range(PDPTES)]
        case PagingMode.PAE:
            latched = registers.pdptes
            return [(frame_of(entry), 0, 3) if entry & P else None for entry in latched]
        case PagingMode.LEVEL4:
            return [(root_gfn(registers), 0, 4)]
        case PagingMode.LEVEL5:
            return [(root_gfn(registers), 0, 5)]


def _describe(places: list[Place | None]) -> str:
    return ", ".join("none" if place is None else f"gfn {place[0]:#x}" for place in places)


def _build(world: World, vm: Vm | None) -> RootMatchesCr3 | None:
    del world
    return None if vm is None else RootMatchesCr3(vm)


SPEC = Oracle(
    title="the root that a vCPU runs on is the shadow of what its cr3 names",
    source="KVM cea0f0e7ea, 17ac10ad2b (2007, mmu_alloc_roots)",
    rule="a loaded root shadows the table of cr3, or of each latched PDPTE, in the vCPU's mode",
    build=_build,
)
