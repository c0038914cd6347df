"""The state of a vCPU."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vmm.engine.world import ModelObject, World
from vmm.hw.control import format_registers
from vmm.mmu.api import NO_PAGE, NO_ROOT, LastPtWrite, Root
from vmm.vcpu.apic import Apic, format_apic
from vmm.vcpu.requests import format_requests

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.monitor import View
    from vmm.hw.layout import Layout
    from vmm.hw.paging import PagingRegisters
    from vmm.hw.pcpu import Pcpu
    from vmm.mmu.mmu import ShadowMmu
    from vmm.vcpu.control import ControlRegisters
    from vmm.vcpu.run_loop import RunLoop


class Mode(enum.Enum):
    """What KVM publishes of a vCPU.

    EXITING comes with the feature ``vcpu-mode``, READING with ``lockless-walk``.

    Source: KVM d9e368d612 (2007, ``guest_mode``), 6b7e2d0991 (2011), c142786c62 (2012).
    """

    OUTSIDE_GUEST_MODE = "outside guest mode"
    IN_GUEST_MODE = "in guest mode"
    EXITING_GUEST_MODE = "exiting guest mode"
    READING_SHADOW_PAGE_TABLES = "reading shadow page tables"


def _format_root(root: Root) -> str:
    named = [f"sp{page}" if page != NO_PAGE else "none" for page in root.pages]
    return ", ".join(named) or "none"


class Vcpu(ModelObject):
    """One vCPU. ``pcpu`` is the processor that it runs on: one of ``pcpus``, for good.

    ``place``: cells that others read to find that processor, once they mean to interrupt it.
    """

    place: tuple[Cell[int], ...] = ()

    def __init__(
        self,
        world: World,
        number: int,
        pcpus: tuple[Pcpu, ...],
        mmu: ShadowMmu,
        registers: PagingRegisters,
    ) -> None:
        self.number = number
        self.pcpu = pcpus[number]
        self.mmu = mmu
        self.mode = world.cell(
            f"mode{number}",
            Mode.OUTSIDE_GUEST_MODE,
            marked=True,
            observable=False,
            format=lambda mode: str(mode.value),
        )
        self.requests = world.cell(
            f"requests{number}", 0, marked=True, observable=False, format=format_requests
        )
        self.registers: Cell[PagingRegisters] = world.cell(
            f"cr3 of v{number}", registers, buffered=False, format=format_registers
        )
        self.root: Cell[Root] = world.cell(
            f"root of v{number}", NO_ROOT, marked=True, buffered=False, format=_format_root
        )
        self.roots: tuple[Cell[Any], ...] = (self.root,)
        """Cells whose ``pages`` are roots that this vCPU uses or keeps."""
        self.last_pt_write: Cell[LastPtWrite] = world.cell(
            f"last pt write of v{number}", LastPtWrite(0, 0), observable=False, buffered=False
        )
        self.apic: Cell[Apic] = world.cell(
            f"apic{number}", Apic(), marked=True, observable=False, format=format_apic
        )

    def pcpu_in(self, view: View) -> Pcpu:
        """The processor that it runs on in a state, for monitors."""
        del view
        return self.pcpu


class Vm(ModelObject):
    """A wired VM: what guest programs, host threads and monitors are given.

    ``classes``: its component classes by name.
    """

    def __init__(
        self,
        vcpus: tuple[Vcpu, ...],
        pcpus: tuple[Pcpu, ...],
        mmu: ShadowMmu,
        loop: RunLoop,
        control: ControlRegisters,
        *,
        layout: Layout,
        params: Mapping[str, int | str],
        classes: Mapping[str, Any],
    ) -> None:
        self.vcpus = vcpus
        self.pcpus = pcpus
        self.mmu = mmu
        self.loop = loop
        self.control = control
        self.layout = layout
        self.params = MappingProxyType(dict(params))
        self.classes: Mapping[str, Any] = MappingProxyType(dict(classes))
