"""vmm list: what there is to run, and with what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from vmm.cli import _options as options
from vmm.cli._output import console, session, width

Entry = dict[str, Any]


@click.command("list", short_help="Show scenarios, bugs, features, strategies, monitors and eras.")
@options.output_options()
def command(as_json: bool, verbose: bool) -> int:
    """Show scenarios, bugs, features, strategies, monitors and eras, each with its source."""
    with session("list", as_json=as_json, verbose=verbose) as at_work:
        sections = {
            "scenarios": _scenarios(),
            "bugs": _bugs(),
            "features": _extensions("vmm.features"),
            "strategies": _extensions("vmm.strategies"),
            "monitors": _extensions("vmm.monitors"),
            "eras": _eras(),
        }
        at_work.say(at_work.data(None, **sections), lambda: _print(sections))
    return 0


def _scenarios() -> list[Entry]:
    """All scenarios; one that cannot be loaded is told of, and left out."""
    from vmm.errors import UsageError
    from vmm.scenario.loading import files, load_file

    found = []
    for path in files():
        try:
            loaded = load_file(path)
        except UsageError as error:
            click.echo(f"vmm: left out: {error}", err=True)
            continue
        found.append(_entry(loaded.name, loaded.scenario))
    return found


def _extensions(package: str) -> list[Entry]:
    from vmm.discovery import discover

    return [_entry(name, module.SPEC) for name, module in discover(package).items()]


def _bugs() -> list[Entry]:
    """Mutants, which never were in a kernel, too: they are not ``historical``."""
    from vmm.discovery import discover

    found = discover("vmm.bugs").items()
    return [{**_entry(name, m.SPEC), "historical": m.SPEC.historical} for name, m in found]


def _eras() -> list[Entry]:
    from vmm.eras import ERAS

    return [_entry(name, era) for name, era in ERAS.items()]


def _entry(name: str, spec: Any) -> Entry:
    return {"name": name, "title": spec.title, "source": spec.source}


def _print(sections: dict[str, list[Entry]]) -> None:
    from rich import box
    from rich.table import Table

    out = console(width=width())
    cell: Callable[[str], str] = _escaped
    bugs = sections["bugs"]
    shown = {**sections, "bugs": [bug for bug in bugs if bug["historical"]]}
    shown["mutants"] = [bug for bug in bugs if not bug["historical"]]
    for section, entries in shown.items():
        table = Table(title=section, title_justify="left", box=box.SIMPLE_HEAD, expand=True)
        table.add_column("name", no_wrap=True)
        table.add_column("what", ratio=1)
        table.add_column("source", ratio=1)
        for entry in entries:
            table.add_row(cell(entry["name"]), cell(entry["title"]), cell(entry["source"]))
        out.print(table)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
