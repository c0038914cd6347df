"""The race table: one column a task, one row a step, only the steps that matter.

    stale-gpte   audit/spte-agrees   14 of 61 steps, 2 switches
          v0                                    v1
      9   read   gpte 0x1000[0] = gfn 2 w
     21                                         write  gpte 0x1000[0] = gfn 4 w
     38   write  sp1[0] = pfn 2 w   <--   gpte says gfn 4
     rule    a present leaf spte maps the gfn of its gpte (mmu_audit)
     replay  vmm replay v1.stale-gpte.7f3a...

The format is that of KVM's own locking document.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from vmm.engine.monitor import Finding
from vmm.engine.task import TaskKind
from vmm.engine.trace import Ending, Outcome
from vmm.engine.waits import waiting
from vmm.report.bug_steps import BugStep
from vmm.report.phrases import intent, phrase
from vmm.report.relevance import steps_that_matter
from vmm.search.replay import CheckedRun

ARROW = "<--"
COLUMN_MIN = 26
"""Columns narrower than this are hard to read: the tasks then share one column."""
ROUND_MAX = 40
"""Steps of a round that are shown: the first ones."""
LABEL = 9
"""Width of the labels below the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """A step; with no number an op that never took effect, or what a bug does other than the fix.

    ``column`` counts from 0.
    """

    number: int | None
    column: int
    text: str
    violates: bool = False


@dataclass(frozen=True, slots=True)
class RaceTable:
    """A run's findings ready to be printed; the first one leads."""

    slug: str
    findings: tuple[Finding, ...]
    steps: int
    switches: int
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    replay: str
    repeats_from: int | None = None
    """The steps after so many repeat for ever."""

    @property
    def finding(self) -> Finding:
        """The one that leads."""
        return self.findings[0]

    def lines(self, width: int) -> list[str]:
        """The table as text, nothing wider than ``width`` but the replay command."""
        layout = _Layout(self, width)
        return [
            *_wrapped(self._header(), "", width),
            *layout.lines(),
            *([] if layout.message_shown else _labelled("found", self.finding.message, width)),
            *_labelled("rule", f"{self.finding.rule} ({self.finding.source})", width),
            *(line for f in self.findings[1:] for line in _labelled("also", _short(f), width)),
            f" {'replay':<{LABEL - 1}}{self.replay}",
        ]

    def _header(self) -> str:
        numbered = sum(row.number is not None for row in self.rows)
        switches = f"{self.switches} switch{'' if self.switches == 1 else 'es'}"
        steps = f"{self.steps} step{'' if self.steps == 1 else 's'}"
        return f"{self.slug}   {self.finding.code}   {numbered} of {steps}, {switches}"


def race_table(
    slug: str,
    run: CheckedRun,
    outcome: Outcome,
    findings: tuple[Finding, ...],
    replay: str,
    bug_steps: Sequence[BugStep] = (),
) -> RaceTable:
    """The table of the findings of a recorded run; the steps are those that matter to the first.

    ``bug_steps``: where the overrides of bugs were entered; each has a row of its own.
    """
    violating = run.pending[run.published] if run.published is not None else None
    if outcome.ending is Ending.DEADLOCK:
        violating = next(op for op in run.pending if op is not None)
    chosen = steps_that_matter(outcome.trace, findings[0], violating=violating)
    if run.repeats_from is not None:
        chosen = _with_round(outcome, findings[0], run.repeats_from)
    waiting = _waiting(run, outcome)
    tasks = sorted(
        {
            *(outcome.trace[index].task.index for index in chosen),
            *(task for task, _ in waiting),
            *(step.task for step in bug_steps),
        }
    )
    column = {task: number for number, task in enumerate(tasks)}
    placed = [
        (step.number, Row(step.number, column[step.task.index], phrase(step)))
        for step in (outcome.trace[index] for index in chosen)
    ]
    placed += [(step.after, Row(None, column[step.task], step.text)) for step in bug_steps]
    rows = [row for _, row in sorted(placed, key=lambda pair: pair[0])]
    rows += [Row(None, column[task], text) for task, text in waiting]
    if rows:
        rows[-1] = Row(rows[-1].number, rows[-1].column, rows[-1].text, violates=True)
    return RaceTable(
        slug=slug,
        findings=findings,
        steps=outcome.steps,
        switches=outcome.switches,
        columns=tuple(run.tasks[task].name for task in tasks),
        rows=tuple(rows),
        replay=replay,
        repeats_from=run.repeats_from,
    )


def _with_round(outcome: Outcome, finding: Finding, first: int) -> list[int]:
    """What matters of the steps before a round, and all of the round."""
    before, round_ = outcome.trace[:first], range(first, len(outcome.trace))
    if len(round_) > ROUND_MAX:
        round_ = range(first, first + ROUND_MAX)
    return [*steps_that_matter(before, finding, violating=outcome.trace[first].op), *round_]


def _waiting(run: CheckedRun, outcome: Outcome) -> list[tuple[int, str]]:
    """By task, the ops that never took effect and yet are part of the finding."""
    if run.published is not None:
        op = run.pending[run.published]
        return [] if op is None else [(run.published, intent(op))]
    if outcome.ending is not Ending.DEADLOCK:
        return []
    return [
        (number, waiting(op))
        for number, op in enumerate(run.pending)
        if op is not None and run.tasks[number].kind is not TaskKind.OPTIONAL
    ]


# --- layout ---


class _Layout:
    """Places rows into columns; tasks share one column where there is no room for more."""

    def __init__(self, table: RaceTable, width: int) -> None:
        self.table = table
        self.width = width
        self.message_shown = False
        numbers = [len(str(row.number)) for row in table.rows if row.number is not None]
        self.margin = max([3, *numbers]) + 3
        room = width - self.margin
        self.widths = self._fitted(room) or [room]
        self.shared = len(table.columns) > len(self.widths)

    def _fitted(self, room: int) -> list[int]:
        """A width for each column, or none if they cannot stand side by side."""
        gap = 3
        natural = [
            gap + max([len(name), *(len(r.text) for r in self.table.rows if r.column == number)])
            for number, name in enumerate(self.table.columns)
        ]
        if not natural or sum(natural) <= room + gap:
            return natural
        if COLUMN_MIN * len(natural) > room:
            return []
        fair = room // len(natural)
        narrow = sum(n for n in natural if n <= fair)
        wide = sum(n > fair for n in natural)
        return [n if n <= fair else (room - narrow) // wide for n in natural]

    def lines(self) -> list[str]:
        """The heads of the columns and all rows."""
        heads = zip(self.table.columns, self.widths, strict=False)
        head = "" if self.shared else "".join(name.ljust(width) for name, width in heads)
        rows: list[str] = []
        repeats_from = self.table.repeats_from
        for row in self.table.rows:
            if repeats_from is not None and (row.number or 0) > repeats_from:
                repeats_from = None
                rows.append(f"{' ' * self.margin}-- from here on, for ever --")
            rows += self._row(row)
        return [line.rstrip() for line in ([" " * self.margin + head] if head else []) + rows]

    def _row(self, row: Row) -> list[str]:
        number = "" if row.number is None else str(row.number)
        start = f"{number:>{self.margin - 3}}   "
        if self.shared:
            indent, width = "", self.widths[0]
            text = f"{self.table.columns[row.column]}: {row.text}"
        else:
            indent = " " * sum(self.widths[: row.column])
            width = self.widths[row.column] - (0 if row.column == len(self.widths) - 1 else 2)
            text = row.text
        lines = [text] if len(text) <= width else textwrap.wrap(text, width, subsequent_indent="  ")
        lines = [
            f"{start if not n else ' ' * self.margin}{indent}{line}" for n, line in enumerate(lines)
        ]
        return self._marked(lines, indent) if row.violates else lines

    def _marked(self, lines: list[str], indent: str) -> list[str]:
        """The arrow, and behind it the message, where there is room."""
        message = self.table.finding.message
        for text in (f"{lines[-1]}   {ARROW}   {message}", f"{lines[-1]}   {ARROW}"):
            if len(text) <= self.width:
                self.message_shown = text.endswith(message)
                return [*lines[:-1], text]
        return [*lines, f"{' ' * self.margin}{indent}{ARROW}"]


def _labelled(label: str, text: str, width: int) -> list[str]:
    return _wrapped(text, f" {label:<{LABEL - 1}}", width)


def _wrapped(text: str, start: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 20),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        break_long_words=False,
    )


def _short(finding: Finding) -> str:
    return f"{finding.code}: {finding.message}"
