"""vmm matrix: every bug is found, and every fixed twin is clean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vmm.cli import _options as options
from vmm.cli._output import Session, console, print_lines, session, width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm.matrix.plan import Pair
    from vmm.matrix.rows import Matrix
    from vmm.matrix.work import Answer, Piece

INTERRUPTED = 130
WIDTH = 160
"""Columns that the table needs."""


@click.command("matrix", short_help="Search for every bug, and in every fixed twin.")
@click.option("--bug", "bugs", metavar="SLUG", multiple=True, help="These bugs alone.")
@click.option("--full", is_flag=True, help="Say as well what random sampling needs.")
@click.option(
    "--jobs", type=click.IntRange(min=1), default=lambda: os.cpu_count() or 1,
    show_default="one a core", help="Processes that search. Same result.",
)  # fmt: skip
@click.option(
    "--markdown", metavar="FILE", type=click.Path(path_type=Path), help="Write the table there."
)
@options.output_options()
def command(
    *,
    bugs: tuple[str, ...],
    full: bool,
    jobs: int,
    markdown: Path | None,
    as_json: bool,
    verbose: bool,
) -> int:
    """Search for every bug in all states of its scenario, and search every fixed twin whole."""
    from vmm.matrix.plan import plan
    from vmm.matrix.rows import matrix
    from vmm.report.files import check_directory

    with session("matrix", as_json=as_json, verbose=verbose) as at_work:
        if markdown is not None:
            check_directory(markdown)
        pairs = plan(bugs)
        known, interrupted = _answers(at_work, pairs, jobs, full=full)
        done = matrix(pairs, known)
        data = at_work.data(None, **done.keys(), interrupted=interrupted, full=full)
        at_work.say(data, lambda: _print(done, at_work.seconds))
        for complaint in done.complaints():
            click.echo(f"vmm: {complaint}", err=True)
        if interrupted:
            click.echo("vmm: interrupted; what was searched so far is kept", err=True)
            return INTERRUPTED
        if markdown is not None:
            _write(markdown, done)
        return 0 if done.is_whole else 1


def _answers(
    at_work: Session, pairs: Sequence[Pair], jobs: int, *, full: bool
) -> tuple[dict[Piece, Answer], bool]:
    """What the searches say, and whether Ctrl-C ended them early."""
    from vmm.matrix.work import answers, pieces

    wanted = pieces(pairs, sampling=full)
    known: dict[Piece, Answer] = {}
    with at_work.progress("searching") as tell:
        try:
            for piece, answer in answers(wanted, jobs):
                known[piece] = answer
                at_work.log(f"{piece}: {answer}")
                tell(f"{len(known)} of {len(wanted)}, last {piece}")
        except KeyboardInterrupt:
            return known, True
    return known, False


def _write(path: Path, done: Matrix) -> None:
    from vmm.matrix.tables import document
    from vmm.report.files import write_whole

    write_whole(path, document(done).encode())


def _print(done: Matrix, seconds: float) -> None:
    from rich import box
    from rich.table import Table

    from vmm.matrix.tables import NUMBERS, cells, heads

    table = Table(box=box.SIMPLE_HEAD)
    names = heads(done.rows)
    for name in names:
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    for row in done.rows:
        table.add_row(*cells(row)[: len(names)])
    console(width=max(width(), WIDTH)).print(table)
    print_lines(f"{done.summary()}, in {seconds:.1f} s")
