"""The only place that wires a machine: hardware, shadow MMU, vCPUs and their programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vmm.engine.monitor import Monitor
from vmm.engine.world import ModelObject, World
from vmm.errors import UsageError
from vmm.hw.layout import Layout, Page, lay_out
from vmm.hw.memory import Memory
from vmm.hw.pcpu import Pcpu
from vmm.mmu import mmu, uncached
from vmm.programs import Programs, add_tasks, make_guests, set_up
from vmm.vcpu.flush import Flush
from vmm.vcpu.run_loop import RunLoop
from vmm.vcpu.vcpu import Vcpu, Vm

if TYPE_CHECKING:
    from vmm.engine.cells import Cell

MonitorFactory = Callable[[World, Vm | None], Monitor | None]
Overrides = Mapping[str, Sequence[type]]

COMPONENTS: Mapping[str, type] = MappingProxyType(
    {**mmu.COMPONENTS, "Flush": Flush, "RunLoop": RunLoop}
)
"""Every class that a bug may override, by name."""


@dataclass(frozen=True, slots=True)
class Era:
    """A state of KVM's history that the model takes as its base."""

    title: str
    source: str


ERAS: Mapping[str, Era] = MappingProxyType(
    {
        "2.6.25": Era(
            title="mmu_lock, guest walk outside the lock, gptes read again under it",
            source="Linux 2.6.25 (2008): aaee2c94f7, 10589a4699, 7819026eef, f7d9c7b7b902",
        ),
    }
)


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What machine a scenario wants.

    ``spaces``: pages by gva of each guest address space; ``starts``: the space of each vCPU
    (default: the first). ``tables`` replaces ``spaces`` by a ready layout. ``shadow_pages``,
    ``min_free``, ``refill`` bound the pool. ``no_cache``: the MMU of before January 2007.
    ``long``: too long for full audits at every release; they are incremental then.
    ``monitors``: oracles of this machine alone.
    """

    spaces: Mapping[str, Mapping[int, Page]] = field(default_factory=dict)
    starts: tuple[str, ...] = ()
    vcpus: int = 2
    era: str = "2.6.25"
    shadow_pages: int = 12
    min_free: int = 4
    refill: int = 4
    no_cache: bool = False
    tlb_tagged: bool = True
    write_protect: bool = True
    host_paging: bool = False
    tables: Layout | None = None
    long: bool = False
    monitors: tuple[MonitorFactory, ...] = ()


def build_world(
    name: str,
    config: MachineConfig,
    programs: Programs,
    params: Mapping[str, int | str],
    *,
    overrides: Overrides = MappingProxyType({}),
    monitors: Sequence[MonitorFactory] = (),
) -> World:
    """Wire a machine with its programs and monitors, and run the set-up programs.

    ``overrides``: subclasses of COMPONENTS, by the component's name. Errors: UsageError.
    """
    world = World(name)
    vm = _wire(world, config, _classes(config, overrides), params)
    world.model = vm
    guests = make_guests(vm, programs)
    add_tasks(world, vm, guests, programs)
    made = [factory(world, vm) for factory in (*monitors, *config.monitors)]
    world.monitors.extend(monitor for monitor in made if monitor is not None)
    if programs.setups:
        set_up(world, guests, programs)
    return world


def _classes(config: MachineConfig, overrides: Overrides) -> dict[str, Any]:
    if config.era not in ERAS:
        raise UsageError(f"unknown era {config.era!r}: choose one of {', '.join(ERAS)}")
    bases: dict[str, type] = {**COMPONENTS, **(uncached.OVERRIDES if config.no_cache else {})}
    return {
        name: type(name, (*overrides[name], base), {}) if overrides.get(name) else base
        for name, base in bases.items()
    }


def _wire(
    world: World, config: MachineConfig, classes: Mapping[str, Any], params: Mapping[str, int | str]
) -> Vm:
    layout = config.tables or lay_out(config.spaces)
    starts = config.starts or (next(iter(layout.roots), ""),) * config.vcpus
    if len(starts) != config.vcpus or not all(start in layout.roots for start in starts):
        raise UsageError(f"starts {starts} must name an address space for each vCPU")
    memory = Memory(world, layout.content, layout.tables)
    shadow = mmu.ShadowMmu(
        world,
        memory,
        classes=classes,
        pages=config.shadow_pages,
        min_free=config.min_free,
        refill=config.refill,
        host_paging=config.host_paging,
    )
    entry = ShadowTables(shadow)
    pcpus = tuple(
        Pcpu(world, n, tagged=config.tlb_tagged, table_entry=entry) for n in range(config.vcpus)
    )
    vcpus = tuple(
        Vcpu(
            world,
            pcpu,
            shadow,
            cr3=layout.roots[start],
            write_protect=config.write_protect,
        )
        for pcpu, start in zip(pcpus, starts, strict=True)
    )
    shadow.connect(classes["Flush"](vcpus))
    return Vm(vcpus, shadow, classes["RunLoop"](), layout, params)


class ShadowTables(ModelObject):
    """What a pCPU's walker reads: entries of the shadow page in a host frame."""

    def __init__(self, shadow: mmu.ShadowMmu) -> None:
        self.shadow = shadow

    def __call__(self, pfn: int, index: int) -> Cell[int]:
        return self.shadow.cache.page_at(pfn)[index]
