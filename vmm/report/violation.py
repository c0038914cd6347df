"""Violations: findings together with the schedule that shows them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vmm.engine.monitor import Finding
from vmm.engine.schedule import Picker, Recorded, encode
from vmm.engine.trace import Outcome
from vmm.engine.world import World
from vmm.errors import InternalError
from vmm.report import findings as finding_files
from vmm.report.bug_steps import BugSteps
from vmm.report.race_table import RaceTable, race_table
from vmm.scenario.experiment import Experiment, host_named
from vmm.search.liveness import is_livelock
from vmm.search.replay import CheckedRun, ReplayedRun, replay
from vmm.strategies.recorded import RecordedPicker

TOKEN_MAX = 2000
"""Tokens longer than this are unwieldy: the replay command then names the finding file."""
TABLE_WIDTH = 100
"""Width of the table in a finding file."""


@dataclass(frozen=True)
class Violation:
    """What one run violated; the first of its findings leads. ``files``: where each is kept."""

    experiment: Experiment
    findings: tuple[Finding, ...]
    recorded: Recorded
    steps: int
    switches: int
    files: tuple[Path, ...] = ()

    @property
    def token(self) -> str:
        """The schedule in its printable form."""
        return encode(self.recorded)

    def fingerprint(self, finding: Finding) -> str:
        """What the finding is known by."""
        return finding_files.fingerprint(self.experiment.loaded.name, finding)

    def replay_command(self, *, otherwise: str | None = None) -> str:
        """The command that shows it again; with no file, ``otherwise`` stands for long tokens."""
        token = self.token
        if len(token) <= TOKEN_MAX:
            return f"vmm replay {token}"
        if self.files:
            return f"vmm replay {self.files[0]}"
        return otherwise or f"vmm replay {token}"

    def table(self) -> RaceTable:
        """The race table, from the run once more with every step recorded."""
        bug_steps = BugSteps(self.experiment.bugs)
        run, outcome = replay(
            self.experiment.world(),
            self.recorded,
            RecordedPicker(self.recorded.schedule),
            bug_steps.watching(host_named("direct")),
            record=True,
            incremental=self.experiment.is_long,
        )
        slug = self.experiment.loaded.slug
        replay_command = self.replay_command()
        return race_table(slug, run, outcome, self.findings, replay_command, bug_steps.found)

    def kept_if_needed(self, directory: Path | None) -> Violation:
        """The same, kept in files if a directory is named or the token is too long to paste."""
        if not self.findings or (directory is None and len(self.token) <= TOKEN_MAX):
            return self
        return self.saved(directory or Path(finding_files.DIRECTORY))

    def saved(self, directory: Path) -> Violation:
        """The same with every finding kept in a file of its own."""
        slug = self.experiment.loaded.slug
        files = tuple(
            finding_files.path_of(directory, slug, self.fingerprint(finding))
            for finding in self.findings
        )
        kept = replace(self, files=files)
        table = kept.table()
        for file, finding in zip(files, self.findings, strict=True):
            others = tuple(other for other in self.findings if other is not finding)
            text = replace(table, findings=(finding, *others)).lines(TABLE_WIDTH)
            finding_files.save(file, self._file_content(finding, text))
        return kept

    def _file_content(self, finding: Finding, table: list[str]) -> finding_files.FindingFile:
        origin = self.recorded.origin
        return finding_files.FindingFile(
            scenario=origin.scenario,
            code=finding.code,
            message=finding.message,
            rule=finding.rule,
            source=finding.source,
            cells=finding.cells,
            fingerprint=self.fingerprint(finding),
            bugs=origin.bugs,
            era=origin.era,
            params=origin.params,
            steps=self.steps,
            switches=self.switches,
            table=table,
            schedule=self.token,
        )

    def entries(self) -> list[dict[str, Any]]:
        """The findings as the command line's JSON has them."""
        files = self.files or (None,) * len(self.findings)
        return [
            {
                "code": finding.code,
                "message": finding.message,
                "rule": finding.rule,
                "source": finding.source,
                "fingerprint": self.fingerprint(finding),
                "steps": self.steps,
                "switches": self.switches,
                "schedule": self.token,
                "file": None if file is None else str(file),
            }
            for finding, file in zip(self.findings, files, strict=True)
        ]


def violation(experiment: Experiment, run: CheckedRun, outcome: Outcome) -> Violation:
    """What a run that is over violated."""
    recorded = run.recorded(experiment.origin, outcome)
    return Violation(experiment, outcome.findings, recorded, outcome.steps, outcome.switches)


def witnessed(
    experiment: Experiment,
    world: World,
    picker: Picker,
    found: tuple[Finding, ...],
    *,
    steps: int | None = None,
    repeats_from: int | None = None,
) -> Violation:
    """The violation that a search found, seen by a live run under ``picker``.

    ``steps``: where the schedule ends, for findings that no single step shows (livelocks);
    ``repeats_from``: after which of them it may repeat for ever.
    Errors: InternalError, if the live run violates something else or nothing.
    """
    run = ReplayedRun(
        world,
        picker,
        incremental=experiment.is_long,
        step_budget=steps,
        repeats_from=repeats_from,
    )
    outcome = host_named("direct")(run)
    seen = [finding.code for finding in outcome.findings]
    if found[0].code not in seen and not is_livelock(found[0]):
        raise InternalError(
            f"the search found {found[0].code}, but a live run of its schedule shows "
            f"{' and '.join(seen) or 'nothing'}"
        )
    recorded = run.recorded(experiment.origin, outcome)
    # Of a livelock a run shows the round, but not whether a way leads out of it.
    shown = found if is_livelock(found[0]) else outcome.findings
    return Violation(experiment, shown, recorded, outcome.steps, outcome.switches)
