"""The classes that a machine is made of, and how features and bugs are put in front of them.

A feature or bug is a module with classes of the components' names; each is a subclass of the
component that overrides some of its steps, and calls ``super()`` where it only adds to one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any

from vmm.hw.pcpu import Pcpu
from vmm.mmu import mmu
from vmm.vcpu.control import ControlRegisters
from vmm.vcpu.flush import Flush
from vmm.vcpu.guest import Guest
from vmm.vcpu.host import Host
from vmm.vcpu.run_loop import RunLoop
from vmm.vcpu.vcpu import Vcpu

Overrides = Mapping[str, Sequence[type]]
"""Subclasses by the component's name; the first one is the front."""

COMPONENTS: Mapping[str, type] = MappingProxyType(
    {
        "ShadowMmu": mmu.ShadowMmu,
        **mmu.COMPONENTS,
        **{
            cls.__name__: cls for cls in (ControlRegisters, Flush, Guest, Host, Pcpu, RunLoop, Vcpu)
        },
    }
)
"""Every class that a feature or a bug may override, by name."""


def own_components(module: ModuleType) -> Iterable[tuple[str, type]]:
    """The component classes that a module defines itself."""
    return [
        (name, value)
        for name, value in vars(module).items()
        if name in COMPONENTS and isinstance(value, type) and value.__module__ == module.__name__
    ]


def overrides_of(modules: Iterable[ModuleType]) -> dict[str, list[type]]:
    """The classes of several modules; those of later modules stand in front."""
    overrides: dict[str, list[type]] = {}
    for module in modules:
        for name, made in own_components(module):
            overrides.setdefault(name, []).insert(0, made)
    return overrides


def compose(*layers: Overrides) -> dict[str, Any]:
    """Every component with the overrides of each layer in front, those of the first layer foremost.

    Without overrides a component stands as it is.
    """
    made: dict[str, Any] = {}
    for name, base in COMPONENTS.items():
        front = [cls for layer in layers for cls in layer.get(name, ())]
        made[name] = type(name, (*front, base), {}) if front else base
    return made
