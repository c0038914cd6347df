"""vmm run: one schedule, live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmm.cli import _options as options
from vmm.cli._output import Session, counts_line, goals_line, print_lines, print_table, session

if TYPE_CHECKING:
    from vmm.engine.schedule import Picker, Recorded
    from vmm.engine.trace import Outcome
    from vmm.report.violation import Violation
    from vmm.scenario.experiment import Experiment
    from vmm.search.replay import CheckedRun


@click.command("run", short_help="Run a scenario once, live.")
@options.experiment_options()
@options.seed_option()
@click.option("--strategy", metavar="NAME", help="Who steps next (vmm list shows them).")
@options.host_option()
@click.option("--schedule", metavar="TOKEN", help="Take the choices of a recorded schedule.")
@click.option(
    "--trace", metavar="FILE", type=click.Path(path_type=Path), help="Write every step as JSON."
)
@options.findings_option(None, "Keep findings in files there.")
@options.output_options()
def command(
    *,
    scenario: str,
    bugs: tuple[str, ...],
    era: str | None,
    params: tuple[str, ...],
    seed: int,
    strategy: str | None,
    host: str,
    schedule: str | None,
    trace: Path | None,
    findings: Path | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Run SCENARIO once, live, under a seed or a recorded schedule."""
    with session("run", as_json=as_json, verbose=verbose) as at_work:
        recorded = None if schedule is None else options.recorded_of(schedule)
        experiment = _experiment(scenario, bugs, era, params, recorded)
        chosen = strategy or experiment.default_strategy
        if recorded is not None:
            chosen = "recorded"
        run = _Run(at_work, experiment, chosen, seed, host, recorded)
        outcome = run.drive(trace)
        return run.report(outcome, findings)


def _experiment(
    scenario: str,
    bugs: tuple[str, ...],
    era: str | None,
    params: tuple[str, ...],
    recorded: Recorded | None,
) -> Experiment:
    """What the options name; what they leave open is as it was recorded."""
    if recorded is None:
        return options.experiment_of(scenario, bugs, era, params)
    from vmm.scenario.experiment import check_origin, prepare
    from vmm.scenario.loading import load

    origin, loaded = recorded.origin, load(scenario)
    check_origin(loaded, origin)
    return prepare(
        loaded,
        params={**origin.params, **options.pairs(params)},
        bugs=bugs or origin.bugs,
        era=era or origin.era,
    )


class _Run:
    """The one run of the command."""

    def __init__(
        self,
        at_work: Session,
        experiment: Experiment,
        strategy: str,
        seed: int,
        host: str,
        recorded: Recorded | None,
    ) -> None:
        self.session = at_work
        self.experiment = experiment
        self.strategy = strategy
        self.seed = seed
        self.host = host
        self.recorded = recorded
        self.run: CheckedRun | None = None

    def drive(self, trace: Path | None) -> Outcome:
        """Run to the end."""
        from vmm.report.files import check_directory
        from vmm.report.trace_file import write_trace
        from vmm.scenario.experiment import host_named
        from vmm.search.replay import CheckedRun

        if trace is not None:
            check_directory(trace)
        drive, world = host_named(self.host), self.experiment.world()
        self.run = run = CheckedRun(
            world,
            self._picker(world),
            record=trace is not None,
            incremental=self.experiment.is_long,
        )
        self.session.begin(self.experiment, self._again())
        outcome = drive(run)
        if trace is not None:
            write_trace(trace, self.experiment.origin, self.host, run.tasks, outcome)
        return outcome

    def _picker(self, world: Any) -> Picker:
        from vmm.strategies.recorded import RecordedPicker

        if self.recorded is not None:
            return RecordedPicker(self.recorded.schedule)
        return self.experiment.pickers(world, self.strategy)(self.seed)

    def _again(self) -> str:
        if self.recorded is not None:
            return self.experiment.command("run", "--schedule", "TOKEN", "--host", self.host)
        return self.experiment.command(
            "run", "--strategy", self.strategy, "--seed", str(self.seed), "--host", self.host
        )

    def report(self, outcome: Outcome, findings: Path | None) -> int:
        """Say what came of it; gives the exit code."""
        from vmm.engine.trace import Ending
        from vmm.report.violation import violation

        assert self.run is not None
        data = self.session.data(
            self.experiment,
            goals=outcome.goals,
            seed=None if self.recorded is not None else self.seed,
            strategy=self.strategy,
            host=self.host,
            steps=outcome.steps,
            ending=outcome.ending.value,
            digest=outcome.digest,
            counts=dict(outcome.counts),
        )
        found = violation(self.experiment, self.run, outcome).kept_if_needed(findings)
        data |= {"findings": found.entries(), "schedule": found.token}
        self.session.say(data, lambda: self._print(outcome, found))
        if outcome.findings:
            return 1
        return 4 if outcome.ending is Ending.STEP_BUDGET else 0

    def _what(self, outcome: Outcome) -> str:
        return outcome.ending.value if outcome.findings else f"no finding, {outcome.ending.value}"

    def _print(self, outcome: Outcome, found: Violation) -> None:
        how = "recorded schedule" if self.recorded is not None else f"seed {self.seed}"
        print_lines(
            f"{self.experiment.loaded.slug}   {self._what(outcome)} after {outcome.steps} steps   "
            f"{how}, {self.strategy}, {self.host}",
            *goals_line(outcome.goals),
            *counts_line(outcome.counts),
            f" digest  {outcome.digest}",
        )
        if found.findings:
            print_table(found.table())
        else:
            print_lines(f" replay  {found.replay_command(otherwise=self._again())}")
