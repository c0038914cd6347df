"""vmm report: the race table of a finding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmm.cli import _options as options
from vmm.cli._output import print_lines, print_table, session

if TYPE_CHECKING:
    from vmm.report.findings import FindingFile
    from vmm.report.race_table import RaceTable
    from vmm.report.violation import Violation


@click.command("report", short_help="Show the race table of a finding file.")
@click.argument("file", type=click.Path(path_type=Path))
@options.output_options()
def command(file: Path, as_json: bool, verbose: bool) -> int:
    """Show the race table of a finding FILE."""
    from vmm.errors import StaleSchedule
    from vmm.report.findings import read

    with session("report", as_json=as_json, verbose=verbose) as at_work:
        kept = read(file)
        try:
            found = _reopened(kept, file)
        except StaleSchedule as error:
            click.echo(f"vmm: {error}; this is the table of that time", err=True)
            at_work.say(_stale(at_work.data(None), kept, file), lambda: print_lines(*kept.table))
            return 0
        table = found.table()
        entries = [entry for entry in found.entries() if entry["code"] == kept.code]
        data = at_work.data(found.experiment, findings=entries, stale=False, **_rows(table))
        at_work.say(data, lambda: print_table(table))
        return 0


def _reopened(kept: FindingFile, file: Path) -> Violation:
    """The violation in the file, on the scenario as it is now."""
    from vmm.engine.schedule import decode
    from vmm.report.violation import Violation
    from vmm.scenario.experiment import reopen

    recorded = decode(kept.schedule)
    return Violation(
        experiment=reopen(recorded),
        findings=(kept.finding,),
        recorded=recorded,
        steps=kept.steps,
        switches=kept.switches,
        files=(file,),
    )


def _rows(table: RaceTable) -> dict[str, Any]:
    return {
        "columns": list(table.columns),
        "rows": [
            {
                "step": row.number,
                "task": table.columns[row.column],
                "text": row.text,
                "violates": row.violates,
            }
            for row in table.rows
        ],
    }


def _stale(data: dict[str, Any], kept: FindingFile, file: Path) -> dict[str, Any]:
    names = ("code", "message", "rule", "source", "fingerprint", "steps", "switches", "schedule")
    return {
        **data,
        "scenario": kept.scenario,
        "bugs": list(kept.bugs),
        "era": kept.era,
        "params": kept.params,
        "findings": [{**{name: getattr(kept, name) for name in names}, "file": str(file)}],
        "stale": True,
        "columns": None,
        "rows": None,
    }
