"""What a scenario and its choices come to in the machine's own terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vmm.components import overrides_of
from vmm.discovery import discover, unknown
from vmm.eras import ERAS
from vmm.errors import UsageError
from vmm.machine import MachineConfig, MonitorFactory, features_of
from vmm.programs import Programs
from vmm.scenario.contract import Scenario


def machine_of(scenario: Scenario, params: Mapping[str, Any]) -> MachineConfig:
    """The machine that the scenario wants. Errors: it is something else."""
    made = scenario.machine(params) if callable(scenario.machine) else scenario.machine
    if not isinstance(made, MachineConfig):
        raise UsageError(f"the scenario's machine is a {type(made).__name__}, not a MachineConfig")
    return made


def configured(machine: MachineConfig, params: Mapping[str, Any]) -> MachineConfig:
    """The machine with what parameters of every machine add (MACHINE_ and WORLD_PARAMETERS)."""
    named = [name.strip().replace("_", "-") for name in str(params.get("features", "")).split(",")]
    return replace(
        machine,
        mode=params.get("mode", machine.mode),
        features=(*machine.features, *filter(None, named)),
        smp=machine.smp or bool(params.get("smp", 0)),
        pcpus=params.get("pcpus", machine.pcpus),
        speculative_fills=params.get("speculative_fills", machine.speculative_fills),
        structure_caches=machine.structure_caches or bool(params.get("structure_caches", 0)),
        memory_model=params.get("memory_model", machine.memory_model),
    )


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


def check_bugs(bugs: Iterable[str], machine: MachineConfig) -> None:
    """Errors: no such bug, one of another era, or one of a feature that the machine has not."""
    known = discover("vmm.bugs")
    features = features_of(machine)
    for bug in bugs:
        if bug not in known:
            raise unknown("bug", bug, known)
        spec = known[bug].SPEC
        if spec.eras and machine.era not in spec.eras:
            raise UsageError(
                f"the bug {bug} does not apply to era {machine.era}: "
                f"choose --era {' or '.join(spec.eras)}"
            )
        missing = [need for need in spec.needs if need not in features]
        if missing:
            raise UsageError(
                f"the bug {bug} is one of a feature that this machine has not: "
                f"add -p features={','.join(missing)}"
            )


def bug_overrides(bugs: Iterable[str], era: str) -> dict[str, list[type]]:
    """The classes that bring these bugs back, and those that the era had anyway."""
    known = discover("vmm.bugs")
    return overrides_of(known[bug] for bug in dict.fromkeys((*ERAS[era].bugs, *bugs)))


def monitor_factories() -> list[MonitorFactory]:
    """What makes the monitors: all of them."""
    return [module.SPEC.build for module in discover("vmm.monitors").values()]
