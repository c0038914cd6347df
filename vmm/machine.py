"""The only place that wires a machine: hardware, shadow MMU, vCPUs and their programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from vmm.components import Overrides, compose
from vmm.discovery import unknown
from vmm.engine.monitor import Monitor
from vmm.engine.world import ModelObject, World
from vmm.eras import ERAS
from vmm.errors import UsageError
from vmm.features import chosen, feature_overrides
from vmm.hw.layout import DEFAULT_MODE, MODES, Layout, Page, lay_out
from vmm.hw.memory import Memory
from vmm.hw.paging import PagingMode
from vmm.mmu import mmu
from vmm.programs import Programs, add_tasks, make_guests, set_up
from vmm.vcpu import speculation
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from vmm.engine.cells import Cell

LONG_STEP_BUDGET = 100_000_000
"""Steps after which a live run of a long machine gives up."""
MonitorFactory = Callable[[World, Vm | None], Monitor | None]


MEMORY_MODELS = ("sc", "tso")
"""Sequential consistency, or the store buffers of x86 (``vmm.engine.tso``)."""


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What machine a scenario wants.

    ``spaces``: pages by gva of each guest address space; ``starts``: the space of each vCPU
    (default: the first). ``mode``: how the guest pages, one of MODES; ``space_modes`` of spaces
    that differ, for guests that switch. ``pcpus``: processors, if there are more than vCPUs, for
    the feature ``vcpu-migration``. ``controls``: further control bits at the start, by the names of
    ``Controls``. ``tables`` replaces ``spaces`` by a ready layout. ``shadow_pages``, ``min_free``,
    ``refill`` bound the pool. ``era`` and ``features`` say which KVM it is; ``smp`` allows several
    vCPUs where the era had only one. ``long``: too long for full audits at every release; they are
    incremental then. ``monitors``: oracles of this machine alone. ``memory_model``: one of
    MEMORY_MODELS. ``structure_caches``: pCPUs cache upper entries too (``vmm.hw.tlb``);
    ``speculative_fills``: they walk ahead, in one of FORMS (``vmm.hw.speculation``). ``memslots``:
    (first frame, frames) of each memory slot at the start (default: one for all frames).
    """

    spaces: Mapping[str, Mapping[int, Page]] = field(default_factory=dict)
    starts: tuple[str, ...] = ()
    mode: str = DEFAULT_MODE
    space_modes: Mapping[str, str] = field(default_factory=dict)
    controls: Mapping[str, bool] = field(default_factory=dict)
    vcpus: int = 2
    pcpus: int = 0
    era: str = "2.6.25"
    features: tuple[str, ...] = ()
    smp: bool = False
    shadow_pages: int = 16
    min_free: int = 4
    refill: int = 4
    tlb_tagged: bool = True
    structure_caches: bool = False
    tables: Layout | None = None
    long: bool = False
    monitors: tuple[MonitorFactory, ...] = ()
    memory_model: str = "sc"
    memslots: tuple[tuple[int, int], ...] = ()
    speculative_fills: str = "none"


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

    ``overrides``: classes of bugs, which stand in front of the features'. Errors: UsageError.
    """
    if config.memory_model not in MEMORY_MODELS:
        raise UsageError(
            f"unknown memory model {config.memory_model!r}: choose {' or '.join(MEMORY_MODELS)}"
        )
    world = World(name)
    if config.long:
        world.step_budget = LONG_STEP_BUDGET
    speculation.check(config.speculative_fills, config.memory_model)
    ahead = speculation.PCPUS[config.speculative_fills]
    classes = compose(overrides, ahead, feature_overrides(features_of(config)))
    vm = _wire(world, config, classes, params)
    world.model = vm
    guests = make_guests(vm, programs)
    add_tasks(world, vm, guests, programs, tso=config.memory_model == "tso")
    gvas = sorted({gva for pages in config.spaces.values() for gva in pages})
    speculation.speculate(world, vm, config.speculative_fills, gvas)
    made = [factory(world, vm) for factory in (*monitors, *config.monitors)]
    world.monitors.extend(monitor for monitor in made if monitor is not None)
    if programs.setups:
        set_up(world, guests, programs)
    return world


def features_of(config: MachineConfig) -> tuple[str, ...]:
    """All features of a machine, in the order in which they are put together.

    Errors: no such era or feature, features that exclude each other, too many vCPUs for the era.
    """
    if config.era not in ERAS:
        raise UsageError(f"unknown era {config.era!r}: choose one of {', '.join(ERAS)}")
    most = ERAS[config.era].vcpus_max
    if most is not None and config.vcpus > most and not config.smp:
        raise UsageError(
            f"era {config.era} has guests of {most} vCPU, not {config.vcpus}: "
            "-p smp=1 (smp=True) shows what breaks"
        )
    return chosen(config.era, config.features)


def _wire(
    world: World, config: MachineConfig, classes: Mapping[str, Any], params: Mapping[str, int | str]
) -> Vm:
    layout = config.tables or lay_out(config.spaces, _modes(config))
    starts = config.starts or (next(iter(layout.roots), ""),) * config.vcpus
    if len(starts) != config.vcpus or not all(start in layout.roots for start in starts):
        raise UsageError(f"starts {starts} must name an address space for each vCPU")
    memory = Memory(world, layout.content, layout.tables)
    shadow: mmu.ShadowMmu = classes["ShadowMmu"](
        world,
        memory,
        classes=classes,
        pages=config.shadow_pages,
        min_free=config.min_free,
        refill=config.refill,
    )
    shadow.slots.place(config.memslots)
    entry = ShadowTables(shadow)
    pcpus = tuple(
        classes["Pcpu"](
            world,
            n,
            tagged=config.tlb_tagged,
            table_entry=entry,
            structure_caches=config.structure_caches,
        )
        for n in range(_pcpus(config))
    )
    vcpus = tuple(
        classes["Vcpu"](world, n, pcpus, shadow, layout.registers(start, **config.controls))
        for n, start in enumerate(starts)
    )
    shadow.connect(classes["Flush"](vcpus))
    loop = classes["RunLoop"]()
    control = classes["ControlRegisters"](loop)
    return Vm(vcpus, pcpus, shadow, loop, control, layout=layout, params=params, classes=classes)


def _pcpus(config: MachineConfig) -> int:
    """How many processors there are. Errors: too few, or spare ones with store buffers."""
    pcpus = config.pcpus or config.vcpus
    if pcpus < config.vcpus:
        raise UsageError(f"pcpus={pcpus}: {config.vcpus} vCPUs need a pCPU each")
    if pcpus > config.vcpus and config.memory_model == "tso":
        raise UsageError(
            f"pcpus={pcpus}: with memory_model=tso each vCPU stays on its pCPU, whose store buffer "
            f"interrupts drain; leave it at {config.vcpus}"
        )
    return pcpus


def _modes(config: MachineConfig) -> dict[str, PagingMode]:
    """The paging mode of each space. Errors: no such mode or space."""
    for name in config.space_modes:
        if name not in config.spaces:
            raise unknown("space", name, config.spaces)
    named = {space: config.space_modes.get(space, config.mode) for space in config.spaces}
    for mode in (config.mode, *named.values()):
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
    return {space: MODES[mode] for space, mode in named.items()}


class ShadowTables(ModelObject):
    """What a pCPU's walker reads: entries of the shadow page in a host frame."""

    def __init__(self, shadow: mmu.ShadowMmu) -> None:
        self.shadow = shadow

    def __call__(self, pfn: int, index: int) -> Cell[int]:
        return self.shadow.cache.page_at(pfn)[index]
