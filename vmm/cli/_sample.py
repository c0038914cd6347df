"""As many schedules of an experiment as the budget allows."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from vmm.cli._explored import Budget, Explored
from vmm.cli._output import Session

if TYPE_CHECKING:
    from vmm.scenario.experiment import Experiment
    from vmm.search.sampling import Execution, Sample, Sampler

SAMPLING_SECONDS = 60.0
"""How long sampling goes on if neither executions nor seconds are given."""


def sample(
    at_work: Session, experiment: Experiment, strategy: str, seed: int, limits: Budget
) -> Explored:
    """Run execution after execution, as far as the budget goes."""
    from vmm.report.violation import witnessed
    from vmm.search import sampling

    _check_search(strategy)
    world = experiment.world()
    picker = experiment.pickers(world, strategy)
    budget = sampling.Budget(
        executions=limits.executions,
        seconds=_seconds(limits),
        keep_going=limits.keep_going,
    )
    again = experiment.command("explore", "--search", strategy, "--seed", str(seed))
    at_work.begin(experiment, again)
    with at_work.progress("sampling") as tell:
        done = sampling.collect(
            _executions(experiment, strategy, seed, limits),
            world,
            budget=budget,
            on_progress=lambda now: tell(f"{now.executions:,}, {len(now.classes):,} classes"),
        )
    return Explored(
        keys={"seed": seed, "jobs": limits.jobs, **_keys(done)},
        lines=_lines(done, strategy, seed),
        goals=done.goals,
        violations=[
            witnessed(experiment, world, picker(failure.seed), failure.outcome.findings)
            for failure in done.failures
        ],
        interrupted=done.interrupted,
    )


def _executions(
    experiment: Experiment, strategy: str, seed: int, limits: Budget
) -> Generator[Execution, None, None]:
    from vmm.search.processes import executions

    if limits.jobs == 1:
        return _sampler(experiment, strategy, seed).executions()
    machine = experiment.machine
    build = partial(
        _sampler_of,
        str(experiment.loaded.path),
        experiment.bugs,
        None if machine is None else machine.era,
        dict(experiment.params),
        strategy,
        seed,
    )
    return executions(build, limits.jobs, most=limits.executions)


def _sampler_of(
    path: str,
    bugs: tuple[str, ...],
    era: str | None,
    params: dict[str, int | str],
    strategy: str,
    seed: int,
) -> Sampler:
    """The sampler of an experiment that another process has prepared before."""
    from vmm.scenario.experiment import prepare
    from vmm.scenario.loading import load

    return _sampler(prepare(load(path), params=params, bugs=bugs, era=era), strategy, seed)


def _sampler(experiment: Experiment, strategy: str, seed: int) -> Sampler:
    from vmm.scenario.experiment import host_named
    from vmm.search.sampling import Sampler

    world = experiment.world()
    return Sampler(
        world,
        experiment.pickers(world, strategy),
        host_named("direct"),
        seed=seed,
        incremental=experiment.is_long,
    )


def _seconds(limits: Budget) -> float | None:
    unlimited = limits.executions is None and limits.seconds is None
    return SAMPLING_SECONDS if unlimited else limits.seconds


def _keys(done: Sample) -> dict[str, Any]:
    return {
        "seconds": done.seconds,
        "executions": done.executions,
        "steps": done.steps,
        "steps_per_second": done.steps / done.seconds if done.seconds else None,
        "first_failure": done.first_failure,
        "classified": done.classified,
        "classes": len(done.classes),
        "unseen_mass": done.unseen_mass,
        "verdict": "violated" if done.failures else "incomplete",
    }


def _lines(done: Sample, strategy: str, seed: int) -> list[str]:
    first = "none failed" if done.first_failure is None else f"number {done.first_failure} failed"
    sampled = (
        f" sampled {done.executions:,} executions from seed {seed} with {strategy}, {first}; "
        f"{done.steps:,} steps in {done.seconds:.2f} s"
    )
    classes = (
        f" classes {len(done.classes):,} distinct partial orders in {done.classified:,} runs; "
        f"the next one is of a new class with probability {done.unseen_mass or 0:.3f}"
    )
    return [sampled, classes]


def _check_search(name: str) -> None:
    """Errors: no such search in this version."""
    from vmm.discovery import discover
    from vmm.errors import UsageError

    modules = discover("vmm.strategies").items()
    strategies = [strategy for strategy, module in modules if module.SPEC.make is not None]
    if name.replace("_", "-") not in strategies:
        raise UsageError(
            f"--search {name} is not in this version: choose one of exhaustive, "
            f"{', '.join(strategies)}"
        )
