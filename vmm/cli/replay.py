"""vmm replay: a stored schedule again, every step held against the record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from vmm.cli import _options as options
from vmm.cli._output import Session, print_lines, print_table, session

if TYPE_CHECKING:
    from vmm.engine.schedule import Recorded
    from vmm.engine.trace import Outcome
    from vmm.report.violation import Violation
    from vmm.scenario.experiment import Experiment


@click.command("replay", short_help="Run a stored schedule again, verifying every step.")
@click.argument("schedule", metavar="FILE|TOKEN")
@options.host_option()
@options.output_options()
def command(schedule: str, host: str, as_json: bool, verbose: bool) -> int:
    """Run a stored schedule again: a finding file, or the token of a report.

    The task chosen, the tasks enabled and the op are verified at each step, the values at the end.
    """
    from vmm.errors import Diverged
    from vmm.scenario.experiment import reopen

    with session("replay", as_json=as_json, verbose=verbose) as at_work:
        recorded = options.recorded_of(schedule)
        experiment = reopen(recorded)
        try:
            found, outcome = _replayed(at_work, experiment, recorded, host)
        except Diverged as error:
            _say_diverged(at_work, experiment, host, error)
            return error.exit_code
        found = _with_livelock(found, schedule)
        data = at_work.data(
            experiment,
            goals=outcome.goals,
            findings=found.entries(),
            verified=True,
            step=None,
            ending=outcome.ending.value,
            digest=outcome.digest,
            host=host,
            steps=outcome.steps,
        )
        at_work.say(data, lambda: _print(found, outcome, host))
        if found.findings:
            return 1
        return 4 if outcome.ending.value == "step-budget" else 0


def _replayed(
    at_work: Session, experiment: Experiment, recorded: Recorded, host: str
) -> tuple[Violation, Outcome]:
    from vmm.report.violation import violation
    from vmm.scenario.experiment import host_named
    from vmm.search.replay import replay
    from vmm.strategies.recorded import RecordedPicker

    drive, world = host_named(host), experiment.world()
    at_work.begin(experiment, experiment.command("replay", "TOKEN", "--host", host))
    run, outcome = replay(
        world,
        recorded,
        RecordedPicker(recorded.schedule),
        drive,
        incremental=experiment.is_long,
    )
    return violation(experiment, run, outcome), outcome


def _with_livelock(found: Violation, schedule: str) -> Violation:
    """The finding as its file has it: a run cannot show that no way leads out of a livelock."""
    from vmm.report.findings import read
    from vmm.search.liveness import is_livelock

    path = options.finding_file_of(schedule)
    if path is None or not all(map(is_livelock, found.findings)):
        return found
    kept = read(path).finding
    return replace(found, findings=(kept,)) if is_livelock(kept) else found


def _say_diverged(at_work: Session, experiment: Experiment, host: str, error: Exception) -> None:
    step = getattr(error, "step", None)
    data = at_work.data(
        experiment,
        verified=False,
        step=step,
        ending=None,
        digest=None,
        host=host,
        error={"code": "replay/diverged", "message": str(error)},
    )
    at_work.say(data, lambda: None)
    click.echo(f"vmm: the replay diverged at step {step}: {error}", err=True)


def _print(found: Violation, outcome: Outcome, host: str) -> None:
    print_lines(
        f"{found.experiment.loaded.slug}   verified: {outcome.steps} steps on {host}, "
        f"{outcome.ending.value}",
        f" digest  {outcome.digest}",
    )
    if found.findings:
        print_table(found.table())
