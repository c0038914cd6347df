"""vmm explore: many schedules of a scenario, or all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vmm.cli import _options as options
from vmm.cli._exhaust import exhaust
from vmm.cli._explored import Budget, Explored
from vmm.cli._output import goals_line, print_lines, print_table, session
from vmm.cli._sample import sample

if TYPE_CHECKING:
    from vmm.report.violation import Violation
    from vmm.scenario.experiment import Experiment


@click.command("explore", short_help="Search the schedules of a scenario, or all its states.")
@options.experiment_options()
@click.option(
    "--search", metavar="NAME", default="exhaustive", show_default=True,
    help="exhaustive, reference (the same, slowly, without hashes), or a strategy: random ...",
)  # fmt: skip
@click.option("--executions", type=click.IntRange(min=1), help="Sample that many schedules.")
@click.option("--seconds", type=click.FloatRange(min=0), help="Stop after that time.")
@click.option("--max-states", type=click.IntRange(min=1), help="Stop after that many states.")
@click.option(
    "--max-memory", metavar="MIB", type=click.IntRange(min=1), help="... or so much memory."
)
@click.option("--rehash", is_flag=True, help="Search again with other hashes, and compare.")
@click.option(
    "--reduction", type=click.Choice(["auto", "none"]), default="auto", show_default=True,
    help="Leave out states that differ in no way that matters.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["auto", "numpy", "numba"]), default="auto", show_default=True,
    help="What expands states (auto: numba, if installed, once there are many). Same result.",
)  # fmt: skip
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that sample; threads that visit states (numba). Same result.",
)
@click.option("--keep-going", is_flag=True, help="Sample on after a finding, for others.")
@options.seed_option()
@options.findings_option("findings", "Where finding files go.")
@options.output_options()
def command(
    *,
    scenario: str,
    bugs: tuple[str, ...],
    era: str | None,
    params: tuple[str, ...],
    search: str,
    executions: int | None,
    seconds: float | None,
    max_states: int | None,
    max_memory: int | None,
    rehash: bool,
    reduction: str,
    engine: str,
    jobs: int,
    keep_going: bool,
    seed: int,
    findings: Path,
    as_json: bool,
    verbose: bool,
) -> int:
    """Search SCENARIO: all its states, or as many schedules as the budget allows."""
    with session("explore", as_json=as_json, verbose=verbose) as at_work:
        experiment = options.experiment_of(scenario, bugs, era, params)
        max_bytes = None if max_memory is None else max_memory << 20
        limits = Budget(
            executions,
            seconds,
            max_states,
            keep_going,
            max_bytes,
            rehash,
            engine,
            reduce=reduction == "auto",
            jobs=jobs,
        )
        if search in ("exhaustive", "reference"):
            explored = exhaust(at_work, experiment, limits, search)
        else:
            explored = sample(at_work, experiment, search, seed, limits)
        kept = [found.saved(findings) for found in explored.violations]
        data = at_work.data(
            experiment,
            goals=explored.goals,
            findings=[entry for found in kept for entry in found.entries()],
            search=search,
            **explored.keys,
        )
        at_work.say(data, lambda: _print(experiment, explored, kept))
        if explored.interrupted:
            click.echo("vmm: interrupted; what was found so far is kept", err=True)
        return explored.exit_code


def _print(experiment: Experiment, explored: Explored, kept: list[Violation]) -> None:
    bugs = f", with {' and '.join(experiment.bugs)}" if experiment.bugs else ""
    print_lines(
        f"{experiment.loaded.slug}{bugs}   {explored.keys['verdict']}",
        *explored.lines,
        *goals_line(explored.goals),
    )
    for found in kept:
        print_lines("", *(f" file    {file}" for file in found.files))
        print_table(found.table())
