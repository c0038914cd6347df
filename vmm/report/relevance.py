"""Which steps of a run matter to a finding: the ones that a race table shows.

From the cells that the finding names: their writes, the reads that these raced with, what the
tasks involved had read that others changed under them, related events, and the locks held around
all that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vmm.engine.events import AuditPoint, Event, Goal
from vmm.engine.monitor import Finding
from vmm.engine.ops import Acquire, Cas, Op, Release
from vmm.engine.trace import TraceStep

WRITES_MAX = 8
"""Writes of one cell that are shown: the last ones."""
RACES_MAX = 6
"""Reads that went stale which are shown: the last ones."""
EVENTS_MAX = 3
"""Related events that are shown: the last ones."""
FALLBACK = 12
"""Steps shown of a finding that names nothing: the last ones."""


def steps_that_matter(
    trace: Sequence[TraceStep], finding: Finding, *, violating: Op | None = None
) -> list[int]:
    """Indexes into ``trace``, ascending.

    ``violating`` is the op that was the finding, if it never took effect; otherwise the last step
    is what violated the rule, and it is always there.
    """
    if not trace:
        return []
    last = trace[-1].op if violating is None else violating
    focus = dict.fromkeys(finding.cells or [cell.name for cell in last.cells])
    kept = dict.fromkeys([len(trace) - 1] if violating is None else [])
    accesses = _accesses(trace)
    for name in focus:
        kept.update(dict.fromkeys(_around_writes(accesses.get(name, []))))
    kept.update(dict.fromkeys(_stale_reads(trace, accesses, list(kept))))
    kept.update(dict.fromkeys(_related_events(trace)))
    kept.update(dict.fromkeys(_locks_around(trace, list(kept))))
    if len(kept) < 2 and violating is None:
        kept.update(dict.fromkeys(range(max(0, len(trace) - FALLBACK), len(trace))))
    return sorted(kept)


@dataclass(frozen=True, slots=True)
class _Access:
    index: int
    task: int
    writes: bool
    is_lock: bool


def _accesses(trace: Sequence[TraceStep]) -> dict[str, list[_Access]]:
    """All accesses of every cell, in order."""
    found: dict[str, list[_Access]] = {}
    for index, step in enumerate(trace):
        op = step.op
        writes = op.writes and not (isinstance(op, Cas) and not step.result)
        is_lock = isinstance(op, Acquire | Release)
        for cell in op.cells:
            access = _Access(index, step.task.index, writes, is_lock)
            found.setdefault(cell.name, []).append(access)
    return found


def _around_writes(accesses: Sequence[_Access]) -> Iterator[int]:
    """The last writes of a cell, and the last reads of each task that a write outdates."""
    writes = [n for n, access in enumerate(accesses) if access.writes]
    if accesses and accesses[-1].is_lock:
        writes = writes[-1:]  # what counts of a lock is who has it
    for n in writes[-WRITES_MAX:]:
        yield accesses[n].index
        before = max((w for w in writes if w < n), default=-1)
        yield from {a.task: a.index for a in accesses[before + 1 : n]}.values()
    if accesses and not accesses[-1].writes:
        yield accesses[-1].index


def _stale_reads(
    trace: Sequence[TraceStep], accesses: dict[str, list[_Access]], kept: Sequence[int]
) -> list[int]:
    """What the tasks of the kept steps had read before, and others changed in between."""
    deadline: dict[int, int] = {}
    for index in kept:
        task = trace[index].task.index
        deadline[task] = max(index, deadline.get(task, 0))
    pairs: list[tuple[int, int]] = []
    for history in accesses.values():
        for n, write in enumerate(history):
            if write.writes and not write.is_lock:
                pairs += _outdated(history[:n], write, deadline)
    pairs.sort()
    return [index for pair in pairs[-RACES_MAX:] for index in pair]


def _outdated(
    before: Sequence[_Access], write: _Access, deadline: dict[int, int]
) -> list[tuple[int, int]]:
    """Of each other task: its last read since the last write, if it acted later."""
    found: dict[int, tuple[int, int]] = {}
    for access in reversed(before):
        if access.writes:
            break
        acts_later = deadline.get(access.task, -1) > write.index
        if access.task != write.task and acts_later:
            found.setdefault(access.task, (access.index, write.index))
    return list(found.values())


def _related_events(trace: Sequence[TraceStep]) -> list[int]:
    """The last steps whose event is of another type but about the same thing as the last step's."""
    types = tuple(type(event) for event in trace[-1].events)
    about: frozenset[tuple[str, str]] = frozenset().union(
        *[_fields(event) for event in trace[-1].events]
    )
    found: list[int] = []
    for index in range(len(trace) - 2, -1, -1):
        others = [event for event in trace[index].events if type(event) not in types]
        if any(_fields(event) & about for event in others):
            found.append(index)
        if len(found) == EVENTS_MAX:
            break
    return found


def _fields(event: Event) -> frozenset[tuple[str, str]]:
    if isinstance(event, Goal | AuditPoint) or not dataclasses.is_dataclass(event):
        return frozenset()
    return frozenset(
        (field.name, repr(getattr(event, field.name))) for field in dataclasses.fields(event)
    )


def _locks_around(trace: Sequence[TraceStep], kept: Sequence[int]) -> Iterator[int]:
    """Where the locks were taken and given back that were held at the kept steps."""
    wanted: dict[int, list[int]] = {}
    for index in kept:
        wanted.setdefault(trace[index].task.index, []).append(index)
    held: dict[tuple[int, str], int] = {}
    for index, step in enumerate(trace):
        task = step.task.index
        if isinstance(step.op, Acquire):
            held[task, step.op.cell.name] = index
        elif isinstance(step.op, Release):
            start = held.pop((task, step.op.cell.name), index)
            if any(start < inside < index for inside in wanted.get(task, ())):
                yield from (start, index)
    for (task, _), start in held.items():
        if any(start < inside for inside in wanted.get(task, ())):
            yield start
