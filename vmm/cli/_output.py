"""What commands say: one JSON object, or lines for people."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from vmm import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from vmm.report.race_table import RaceTable
    from vmm.scenario.experiment import Experiment

WIDTH = 100
"""Columns of text that does not go to a terminal."""

Data = dict[str, Any]


def empty(command: str | None) -> Data:
    """The keys that every JSON object has."""
    keys = ("scenario", "bugs", "era", "params", "seconds", "findings", "goals")
    return {"command": command, "version": __version__, **dict.fromkeys(keys)}


def to_json(data: Data) -> str:
    """One JSON object, in one line."""
    import msgspec

    return msgspec.json.encode(data).decode()


class Session:
    """One command at work: its clock, its diagnostics, and what it says in the end.

    ``reproduce`` is the command line that an error in vmm should be reported with.
    """

    def __init__(self, command: str, *, as_json: bool, verbose: bool) -> None:
        self.command = command
        self.as_json = as_json
        self.verbose = verbose
        self.reproduce: str | None = None
        self._entered = time.perf_counter()
        self._working = self._entered

    def begin(self, experiment: Experiment, reproduce: str) -> None:
        """Everything is imported and built: from here on the clock counts as work."""
        self.reproduce = reproduce
        self._working = time.perf_counter()
        if self.verbose:
            self.log(f"{experiment.loaded.path}, fingerprint {experiment.loaded.fingerprint}")
            self.log(f"imported and built in {self.startup_seconds:.3f} s")

    def exclude(self, seconds: float) -> None:
        """Count some of the work so far as start-up: it went into importing and compiling."""
        self._working += seconds

    @property
    def startup_seconds(self) -> float:
        """Imports, loading and building."""
        return self._working - self._entered

    @property
    def seconds(self) -> float:
        """Work so far."""
        return time.perf_counter() - self._working

    def log(self, message: str) -> None:
        """A diagnostic, for ``-v`` only."""
        if self.verbose:
            from loguru import logger

            logger.debug(message)

    def data(self, experiment: Experiment | None, **more: Any) -> Data:
        """The JSON object so far."""
        found = {**empty(self.command), "seconds": self.seconds}
        if experiment is not None:
            found |= {
                "scenario": experiment.loaded.name,
                "bugs": list(experiment.bugs),
                "era": experiment.era,
                "params": dict(experiment.params),
                "startup_seconds": self.startup_seconds,
            }
        return {**found, **more}

    def say(self, data: Data, people: Callable[[], None]) -> None:
        """The JSON object, or what ``people`` prints."""
        if self.as_json:
            click.echo(to_json(data))
        else:
            people()

    @contextmanager
    def progress(self, text: str) -> Iterator[Callable[[str], None]]:
        """Lets the work say how far it is, if there is a terminal to say it on."""
        if self.as_json or not sys.stderr.isatty() or no_color():
            yield lambda _: None
            return
        with console(stderr=True).status(text) as status:
            yield lambda now: status.update(f"{text}: {now}")


@contextmanager
def session(command: str, *, as_json: bool, verbose: bool) -> Iterator[Session]:
    """A command at work; errors that are our own get the command line that reproduces them."""
    from vmm.errors import Diverged, InternalError, Nondeterminism

    made = Session(command, as_json=as_json, verbose=verbose)
    try:
        yield made
    except (InternalError, Diverged, Nondeterminism) as error:
        if made.reproduce is not None:
            error.add_note(f"reproduce: {made.reproduce}")
        raise


def no_color() -> bool:
    """Whether the environment asks for plain text."""
    return bool(os.environ.get("NO_COLOR"))


def console(**options: Any) -> Console:
    """Prints text as it is; no escape sequences with NO_COLOR, not even for bold."""
    from rich.console import Console

    if no_color():
        options["force_terminal"] = False
    return Console(highlight=False, emoji=False, **options)


def print_lines(*lines: str, styles: Mapping[int, str] | None = None) -> None:
    """Lines as they are: never wrapped, coloured on a terminal only."""
    from rich.text import Text

    out = console(soft_wrap=True)
    for number, line in enumerate(lines):
        out.print(Text(line, style=(styles or {}).get(number, "")))


def print_table(table: RaceTable) -> None:
    """A race table, as wide as the terminal."""
    from vmm.report.race_table import ARROW

    lines = table.lines(width())
    styles = {number: "bold red" for number, line in enumerate(lines) if ARROW in line}
    print_lines(*lines, styles={0: "bold", **styles})


def width() -> int:
    """Columns there are."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return WIDTH
    from shutil import get_terminal_size

    return get_terminal_size((WIDTH, 24)).columns


def goals_line(goals: Mapping[str, bool]) -> list[str]:
    """Which goals were reached, in one line; none if there are no goals."""
    if not goals:
        return []
    said = [f"{goal}{'' if reached else ' (not reached)'}" for goal, reached in goals.items()]
    return [f" goals   {'; '.join(said)}"]


def counts_line(counts: Mapping[str, int]) -> list[str]:
    """What was counted, in one line; none if nothing was."""
    if not counts:
        return []
    return [f" counts  {'; '.join(f'{name} {count}' for name, count in counts.items())}"]
