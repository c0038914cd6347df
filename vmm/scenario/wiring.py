"""What a scenario and its choices come to in the machine's own terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from vmm.discovery import discover, unknown
from vmm.errors import UsageError
from vmm.machine import COMPONENTS, MachineConfig, MonitorFactory
from vmm.programs import Programs
from vmm.scenario.contract import Scenario


def machine_of(scenario: Scenario, params: Mapping[str, Any]) -> MachineConfig:
    """The machine that the scenario wants. Errors: it is something else."""
    made = scenario.machine(params) if callable(scenario.machine) else scenario.machine
    if not isinstance(made, MachineConfig):
        raise UsageError(f"the scenario's machine is a {type(made).__name__}, not a MachineConfig")
    return made


def programs_of(scenario: Scenario, vcpus: int) -> Programs:
    """The scenario's programs; the one for all other vCPUs goes to those that have none."""
    others = scenario.other_vcpus
    rest = {} if others is None else dict.fromkeys(range(vcpus), others)
    return Programs(
        vcpus={**rest, **scenario.vcpus},
        setups=scenario.setups,
        interrupts=scenario.interrupts,
        hosts=scenario.hosts,
    )


def check_bugs(bugs: Iterable[str], era: str) -> None:
    """Errors: no such bug, or one of another era."""
    known = discover("vmm.bugs")
    for bug in bugs:
        if bug not in known:
            raise unknown("bug", bug, known)
        eras: tuple[str, ...] = known[bug].SPEC.eras
        if era not in eras:
            raise UsageError(
                f"the bug {bug} does not apply to era {era}: choose --era {' or '.join(eras)}"
            )


def overrides_of(bugs: Iterable[str]) -> dict[str, list[type]]:
    """The classes that bring the bugs back, by the component that each overrides."""
    known = discover("vmm.bugs")
    overrides: dict[str, list[type]] = {}
    for bug in bugs:
        for name, made in _own_classes(known[bug]):
            overrides.setdefault(name, []).append(made)
    return overrides


def _own_classes(module: ModuleType) -> list[tuple[str, type]]:
    return [
        (name, value)
        for name, value in vars(module).items()
        if name in COMPONENTS and isinstance(value, type) and value.__module__ == module.__name__
    ]


def monitor_factories() -> list[MonitorFactory]:
    """What makes the monitors: all of them."""
    return [module.SPEC.build for module in discover("vmm.monitors").values()]
