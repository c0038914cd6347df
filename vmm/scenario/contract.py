"""What a scenario file says: a title, a machine or a world, parameters, programs and goals."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vmm.discovery import unknown
from vmm.engine.schedule import Picker
from vmm.engine.world import World
from vmm.errors import UsageError
from vmm.hw.layout import DEFAULT_MODE, PAGED_MODES
from vmm.hw.speculation import FORMS
from vmm.machine import MEMORY_MODELS

Params = Mapping[str, Any]
"""The parameters of an experiment by name: ints and strings, checked already."""

P = TypeVar("P", bound=Callable[..., Any])


@dataclass(frozen=True)
class Parameter:
    """Something that users set with ``-p NAME=VALUE``. The default's type is the value's."""

    name: str
    default: int | str
    help: str = ""
    minimum: int | None = None
    maximum: int | None = None
    choices: tuple[int | str, ...] = ()

    def parse(self, given: int | str) -> int | str:
        """The value meant. Errors: not of the default's type, out of range, not a choice."""
        value = self._converted(given)
        if self.choices and value not in self.choices:
            raise self._error(given, f"one of {', '.join(map(str, self.choices))}")
        if isinstance(value, int) and not self._in_range(value):
            low = "any" if self.minimum is None else self.minimum
            high = "any" if self.maximum is None else self.maximum
            raise self._error(given, f"a number from {low} to {high}")
        return value

    def _converted(self, given: int | str) -> int | str:
        if isinstance(self.default, str):
            return str(given)
        try:
            return int(given, 0) if isinstance(given, str) else int(given)
        except ValueError:
            raise self._error(given, "a number") from None

    def _in_range(self, value: int) -> bool:
        return (self.minimum is None or value >= self.minimum) and (
            self.maximum is None or value <= self.maximum
        )

    def _error(self, given: int | str, wanted: str) -> UsageError:
        return UsageError(f"parameter {self.name}={given}: the value must be {wanted}")


MACHINE_PARAMETERS = (
    Parameter("features", "", "features of KVM to add to the scenario's, separated by commas"),
    Parameter("smp", 0, "1: several vCPUs also in an era that had one", minimum=0, maximum=1),
    Parameter("pcpus", 0, "processors for vcpu-migration; 0: as many as vCPUs", minimum=0),
    Parameter("speculative_fills", "none", "processors walk ahead of the guest", choices=FORMS),
    Parameter("structure_caches", 0, "1: processors cache upper entries too", minimum=0, maximum=1),
)
"""What every scenario with a machine can be given beside its own parameters."""

WORLD_PARAMETERS = (
    Parameter("memory_model", "sc", "tso: the store buffers of x86", choices=MEMORY_MODELS),
)
"""What every scenario can be given, also one without a machine."""


@dataclass(eq=False)
class Scenario:
    """An experiment that can be run, sampled and exhausted.

    ``machine``: a MachineConfig, or a function of the parameters that gives one; without it, a
    function marked with ``world`` builds cells and tasks by hand. ``goals`` must each be reached
    at least once, or nothing was tested. ``bugs``: those that this scenario shows. ``small``:
    parameters with which a search of all states ends within seconds. ``modes``: the guest paging
    modes that it makes sense in; 4-level, or else the first, is the default of its ``mode``.
    """

    title: str
    source: str
    machine: Any = None
    goals: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    bugs: tuple[str, ...] = ()
    small: Params = field(default_factory=dict)
    modes: tuple[str, ...] = PAGED_MODES

    vcpus: dict[int, Callable[..., Any]] = field(default_factory=dict, init=False)
    other_vcpus: Callable[..., Any] | None = field(default=None, init=False)
    setups: dict[int, Callable[..., Any]] = field(default_factory=dict, init=False)
    interrupts: dict[int, Callable[..., Any]] = field(default_factory=dict, init=False)
    hosts: dict[str, Callable[..., Any]] = field(default_factory=dict, init=False)
    build: Callable[[World, Params], object] | None = field(default=None, init=False)
    own_picker: Callable[[World, Params], Picker] | None = field(default=None, init=False)

    def vcpu(self, *indexes: int) -> Callable[[P], P]:
        """Marks the guest program of these vCPUs; of all that have none, if none is named."""

        def mark(program: P) -> P:
            _check_async(program)
            if not indexes:
                self.other_vcpus = program
            return _note(self.vcpus, indexes, program, "vCPU")

        return mark

    def setup(self, *indexes: int) -> Callable[[P], P]:
        """Marks a guest program that these vCPUs run alone before the world starts."""
        if not indexes:
            raise UsageError("SCENARIO.setup() sets up nobody: name the vCPUs, as in setup(0, 1)")
        return lambda program: _note(self.setups, indexes, program, "set-up of vCPU")

    def interrupt(self, *indexes: int) -> Callable[[P], P]:
        """Marks the guest's handler of interrupts of these vCPUs."""
        return lambda program: _note(self.interrupts, indexes, program, "interrupt of vCPU")

    def host(self, *names: str) -> Callable[[P], P]:
        """Marks the program of a host thread of that name."""
        return lambda program: _note(self.hosts, names, program, "host thread")

    def world(self, build: P) -> P:
        """Marks the function ``build(world, params)`` of a scenario without a machine."""
        self.build = build
        return build

    def picker(self, make: P) -> P:
        """Marks ``make(world, params)``: the scenario's own picker, the strategy ``recorded``."""
        self.own_picker = make
        return make

    def check(self) -> None:
        """Errors: neither a machine nor a world, or both."""
        programs = self.vcpus or self.other_vcpus or self.setups or self.interrupts or self.hosts
        if self.machine is None and self.build is None:
            raise UsageError(
                "SCENARIO has neither a machine nor a world: give it machine=MachineConfig(...), "
                "or mark a function build(world, params) with @SCENARIO.world"
            )
        if self.build is not None and (self.machine is not None or programs):
            raise UsageError(
                "SCENARIO has a world of its own, so it can have no machine, vCPUs or host threads"
            )

    @property
    def mode_parameter(self) -> Parameter:
        """How the guest pages."""
        default = DEFAULT_MODE if DEFAULT_MODE in self.modes else self.modes[0]
        return Parameter("mode", default, "guest paging mode", choices=self.modes)

    def values(self, given: Params) -> dict[str, int | str]:
        """The parameters with their defaults filled in. Errors: unknown name, bad value."""
        known = {parameter.name: parameter for parameter in self.parameters}
        common: tuple[Parameter, ...] = WORLD_PARAMETERS
        if self.machine is not None:
            common += MACHINE_PARAMETERS
            known.setdefault("mode", self.mode_parameter)
        for parameter in common:
            if parameter.name in given:
                known.setdefault(parameter.name, parameter)
        for name in given:
            if name not in known:
                raise unknown("parameter", name, known)
        return {
            name: parameter.parse(given.get(name, parameter.default))
            for name, parameter in known.items()
        }


def _note(programs: dict[Any, Any], keys: tuple[Any, ...], program: P, what: str) -> P:
    _check_async(program)
    for key in keys:
        if key in programs:
            both = f"{programs[key].__name__} and {program.__name__}"
            raise UsageError(f"two programs for {what} {key}: {both}; it can have one")
        programs[key] = program
    return program


def _check_async(program: Callable[..., Any]) -> None:
    if not inspect.iscoroutinefunction(program):
        raise UsageError(f"{program.__name__} must be `async def`: it is the program of a task")
