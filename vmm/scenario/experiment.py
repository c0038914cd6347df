"""Experiments: a scenario with all that is chosen about it, ready to be run or searched."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vmm.discovery import discover, unknown
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.live import Run
from vmm.engine.schedule import Origin, Picker, Recorded
from vmm.engine.trace import Outcome
from vmm.engine.tso import add_store_buffers
from vmm.engine.world import World
from vmm.eras import ERAS
from vmm.errors import ScheduleError, StaleSchedule, UsageError
from vmm.machine import MachineConfig, build_world
from vmm.scenario.contract import Scenario
from vmm.scenario.failures import user_errors
from vmm.scenario.loading import LoadedScenario, load
from vmm.scenario.wiring import (
    bug_overrides,
    check_bugs,
    configured,
    machine_of,
    monitor_factories,
    programs_of,
)
from vmm.search.replay import Drive
from vmm.strategies import Strategy

OWN_STRATEGY = "recorded"
"""The name under which a scenario's own picker goes."""


@dataclass(frozen=True)
class Experiment:
    """A scenario with parameters, bugs and era; ``world`` builds it afresh each time."""

    loaded: LoadedScenario
    params: Mapping[str, int | str]
    bugs: tuple[str, ...]
    machine: MachineConfig | None

    @property
    def era(self) -> str | None:
        """The era of the machine; None without one."""
        return None if self.machine is None else self.machine.era

    @property
    def is_long(self) -> bool:
        """Whether runs are so long that audits should be incremental."""
        return self.machine is not None and self.machine.long

    @property
    def origin(self) -> Origin:
        """What a schedule says of where it was recorded."""
        return Origin(
            scenario=self.loaded.name,
            fingerprint=self.loaded.fingerprint,
            params=dict(self.params),
            bugs=self.bugs,
            era=self.era,
        )

    def world(self) -> World:
        """A fresh world. Errors: whatever is wrong in the scenario, in one line."""
        scenario = self.loaded.scenario
        with user_errors():
            if self.machine is None:
                world = self._own_world(scenario)
            else:
                world = build_world(
                    self.loaded.slug,
                    self.machine,
                    programs_of(scenario, self.machine.vcpus),
                    self.params,
                    overrides=bug_overrides(self.bugs, self.machine.era),
                    monitors=monitor_factories(),
                )
        world.goals = scenario.goals
        return world

    def _own_world(self, scenario: Scenario) -> World:
        assert scenario.build is not None
        world = World(self.loaded.slug)
        scenario.build(world, self.params)
        if not world.tasks:
            raise UsageError(f"{self.loaded.path}: the world has no task: add some with world.task")
        if self.params.get("memory_model") == "tso":
            add_store_buffers(world)
        made = [factory(world, None) for factory in monitor_factories()]
        world.monitors.extend(monitor for monitor in made if monitor is not None)
        return world

    @property
    def default_strategy(self) -> str:
        """The scenario's own picker if it has one."""
        return OWN_STRATEGY if self.loaded.scenario.own_picker is not None else "random"

    def pickers(self, world: World, strategy: str) -> Callable[[int], Picker]:
        """Makes the picker of a seed. Errors: no such strategy, or one that takes no seeds."""
        own = self.loaded.scenario.own_picker
        if strategy == OWN_STRATEGY and own is not None:
            make_own = user_errors()(own)
            return lambda _: make_own(world, self.params)
        make = strategy_named(strategy).make
        if make is None:
            raise UsageError(f"the strategy {strategy} needs a schedule: give --schedule TOKEN")
        return make

    def arguments(self) -> list[str]:
        """What the command line says to get this experiment."""
        scenario, words = self.loaded.scenario, [self.loaded.name]
        for bug in self.bugs:
            words += ["--bug", bug]
        if self.machine is not None and self.machine.era != machine_of(scenario, self.params).era:
            words += ["--era", self.machine.era]
        defaults = scenario.values({})
        for name, value in self.params.items():
            if value != defaults.get(name):
                words += ["-p", f"{name}={value}"]
        return words

    def command(self, verb: str, *options: str) -> str:
        """A command line about this experiment."""
        return shlex.join(["vmm", verb, *self.arguments(), *options])


def prepare(
    loaded: LoadedScenario,
    *,
    params: Mapping[str, int | str] | None = None,
    bugs: Sequence[str] = (),
    era: str | None = None,
) -> Experiment:
    """Check what was chosen. Errors: an unknown name or a bad value, in one line."""
    scenario = loaded.scenario
    values = scenario.values(params or {})
    if scenario.build is not None:
        if bugs or era is not None:
            option = f"--bug {bugs[0]}" if bugs else f"--era {era}"
            raise UsageError(
                f"{loaded.name} builds its world by hand and has no machine that {option} "
                "could change: leave it out"
            )
        return Experiment(loaded, values, (), None)
    with user_errors():
        machine = configured(machine_of(scenario, values), values)
    if era is not None:
        machine = replace(machine, era=era)
    if machine.era not in ERAS:
        raise unknown("era", machine.era, ERAS)
    chosen = tuple(dict.fromkeys(bug.replace("_", "-") for bug in bugs))
    check_bugs(chosen, machine)
    return Experiment(loaded, values, chosen, machine)


def reopen(recorded: Recorded) -> Experiment:
    """The experiment of a recorded schedule. Errors: StaleSchedule if the scenario was edited."""
    origin = recorded.origin
    loaded = load(origin.scenario)
    check_origin(loaded, origin)
    return prepare(loaded, params=origin.params, bugs=origin.bugs, era=origin.era)


def check_origin(loaded: LoadedScenario, origin: Origin) -> None:
    """Errors: the schedule is of another scenario, or of another version of this one."""
    if loaded.fingerprint == origin.fingerprint:
        return
    if loaded.name != origin.scenario:
        raise ScheduleError(
            f"the schedule is of the scenario {origin.scenario}, not of {loaded.name}: "
            f"vmm replay TOKEN finds its scenario itself"
        )
    raise StaleSchedule(
        f"{loaded.path} was edited since the schedule was recorded (its content has the "
        f"fingerprint {loaded.fingerprint}, not {origin.fingerprint}): "
        "restore the file, or record a new schedule"
    )


def strategy_named(name: str) -> Strategy:
    """The strategy of that name. Errors: there is none."""
    modules = discover("vmm.strategies")
    public = name.replace("_", "-")
    if public not in modules:
        raise unknown("strategy", name, modules)
    spec: Strategy = modules[public].SPEC
    return spec


def host_named(name: str) -> Drive:
    """What drives a run on that host. Errors: there is none of that name."""
    if name not in HOSTS:
        raise unknown("host", name, HOSTS)
    drive = driver(name)

    def guarded(run: Run) -> Outcome:
        with user_errors():
            return drive(run)

    return guarded
