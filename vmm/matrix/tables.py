"""The matrix as tables: for people, and as a Markdown document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from vmm.matrix.rows import Matrix, Row
from vmm.matrix.work import EXECUTIONS_MAX, SEEDS

NAMES = ("bug", "year", "fix", "scenario", "found by")
NUMBERS = ("states", "steps", "switches", "preempted", "twin", "random")

HEAD = """\
# The kill matrix

Each bug is looked for in all states of its scenario, and each scenario is searched whole without
its bug: the fixed twin. `vmm matrix --markdown FILE` wrote this page; tests hold it against
the bugs that there are and against their stored counterexamples.

*States* were visited until the bug was found. *Steps* and *switches* are those of a shortest
counterexample; a switch is a step of another task than the one before. *Preempted* is how often, at
the least, a schedule that shows the bug takes the turn from a task that could have gone on. *Twin*
is how many states the fixed twin has, all of them clean.
"""

MUTANTS = """\
Each takes away a step that matters, though no release is known to have lacked it.
"""

SWITCHES = """\
How many context switches a race needs is how often somebody must be preempted: switches that come
by themselves, because a task has ended or waits, are in every schedule. Two are said to suffice for
nearly all bugs of this kind. Measured:
"""

RANDOM = f"""\
*Random* is how many executions random schedules need: the median over {SEEDS} seeds, or - if that
is more than {EXECUTIONS_MAX}.
"""


def heads(rows: Sequence[Row]) -> list[str]:
    """The heads of the columns; the last one only if there was sampling."""
    return [*NAMES, *(NUMBERS if _are_sampled(rows) else NUMBERS[:-1])]


def cells(row: Row) -> list[str]:
    """What stands below the heads, with the one of sampling."""
    twin = row.fixed_states if row.fixed_clean else None
    return [
        row.bug,
        "-" if row.year is None else str(row.year),
        row.fix or "-",
        row.scenario,
        row.code or "-",
        *map(_said, (row.states, row.steps, row.switches, row.preemptions, twin, row.executions)),
    ]


def _are_sampled(rows: Sequence[Row]) -> bool:
    return any(row.executions is not None for row in rows)


def _said(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def document(matrix: Matrix) -> str:
    """The page, with its last newline."""
    historical = [row for row in matrix.rows if row.historical]
    mutants = [row for row in matrix.rows if not row.historical]
    parts = [HEAD, f"{matrix.summary()}.\n", "## Historical bugs\n", _table(historical)]
    if mutants:
        parts += ["## Mutants\n", MUTANTS, _table(mutants)]
    if _are_sampled(matrix.rows):
        parts.append(RANDOM)
    return "\n".join([*parts, "## Context switches\n", SWITCHES, _distribution(matrix.rows)])


def _table(rows: Sequence[Row]) -> str:
    names = heads(rows)
    ruler = ["---" if name in NAMES else "--:" for name in names]
    lines = [names, ruler, *([_quoted(cells(row)) for row in rows])]
    lines = [line[: len(names)] for line in lines]
    return "\n".join([*map(_line, lines), ""])


def _quoted(found: list[str]) -> list[str]:
    bug, year, fix, scenario, code, *numbers = found
    return [f"`{bug}`", year, fix, f"`{scenario}`", f"`{code}`", *numbers]


def _line(found: Iterable[str]) -> str:
    return f"| {' | '.join(found)} |"


def _distribution(rows: Sequence[Row]) -> str:
    counted = Counter(row.preemptions for row in rows if row.preemptions is not None)
    lines = [("preempted", "bugs"), ("--:", "--:")]
    lines += [(str(number), str(counted[number])) for number in sorted(counted)]
    return "\n".join([*map(_line, lines), ""])
