"""Small machines with programs, to be exhausted or run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vmm.components import Overrides
from vmm.discovery import discover
from vmm.engine.world import World
from vmm.hw.layout import Page
from vmm.machine import MachineConfig, build_world
from vmm.programs import GuestProgram, HostProgram, Programs
from vmm.search.reference import search
from vmm.search.result import Result


def tiny(
    spaces: Mapping[str, Mapping[int, Page]],
    *programs: GuestProgram,
    setups: Sequence[GuestProgram] = (),
    interrupts: Mapping[int, GuestProgram] | None = None,
    hosts: Mapping[str, HostProgram] | None = None,
    overrides: Overrides | None = None,
    goals: tuple[str, ...] = (),
    **config: Any,
) -> World:
    """A machine with one vCPU a program, judged by every oracle that there is."""
    world = build_world(
        "tiny",
        MachineConfig(spaces=spaces, vcpus=len(programs), **config),
        Programs(
            vcpus=dict(enumerate(programs)),
            setups=dict(enumerate(setups)),
            interrupts=interrupts or {},
            hosts=hosts or {},
        ),
        {},
        overrides=overrides or {},
        monitors=[module.SPEC.build for module in discover("vmm.monitors").values()],
    )
    world.goals = goals
    return world


def exhausted(world: World) -> Result:
    """All states of a world without a finding; every goal is reached."""
    result = search(world)
    assert not result.findings, [(found.code, found.message) for found in result.findings]
    assert result.complete
    assert all(result.goals.values()), result.goals
    return result


def codes(world: World) -> tuple[str, ...]:
    """What a search of the world finds first."""
    return tuple(found.code for found in search(world).findings)
