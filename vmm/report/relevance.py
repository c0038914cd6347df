"""Which steps of a run matter to a finding: the ones that a race table shows.

From the cells that the finding names: their writes, the reads that these raced with, what the
tasks involved had read that others changed under them, related events, and the locks held around
all that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from vmm.engine.events import AuditPoint, Event, Goal
from vmm.engine.monitor import Finding
from vmm.engine.ops import Acquire, Cas, Op, Release
from vmm.engine.rwlock import AcquireShared
from vmm.engine.trace import TraceStep
from vmm.engine.tso import bare

WRITES_MAX = 8
"""Writes of one cell that are shown: the last ones."""
RACES_MAX = 6
"""Reads that went stale which are shown: the last ones."""
EVENTS_MAX = 3
"""Related events that are shown: the last ones."""
ACTORS = ("vcpu", "pcpu")
"""Fields of events that say who acts, not on what."""
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
    accesses, sections = _accesses(trace), _critical_sections(trace)
    kept = [len(trace) - 1] if violating is None else []
    for name in focus:
        kept += _around_writes(accesses.get(name, []), sections)
    if len({trace[index].task for index in kept}) < 2:
        kept += _stale_reads(trace, accesses, kept)
    kept += _related_events(trace)
    if len(kept) < 2 and violating is None:
        kept += range(max(0, len(trace) - FALLBACK), len(trace))
    kept += [end for s in sections for end in s.ends if any(s.covers(trace, k) for k in kept)]
    return sorted(dict.fromkeys(kept))


@dataclass(frozen=True, slots=True)
class _Access:
    index: int
    task: int
    writes: bool
    is_lock: bool
    is_observable: bool


def _accesses(trace: Sequence[TraceStep]) -> dict[str, list[_Access]]:
    """All accesses of every cell, in order."""
    found: dict[str, list[_Access]] = {}
    for index, step in enumerate(trace):
        op = bare(step.op)
        writes = op.writes and not (isinstance(op, Cas) and not step.result)
        is_lock = isinstance(op, Acquire | Release)
        for cell in step.op.cells:
            access = _Access(index, step.task.index, writes, is_lock, cell.observable)
            found.setdefault(cell.name, []).append(access)
    return found


@dataclass(frozen=True, slots=True)
class _Section:
    """A lock held by a task from one index to another; no end if it was never given back.

    ``alone``: it was not shared.
    """

    task: int
    start: int
    end: int | None
    alone: bool

    @property
    def ends(self) -> tuple[int, ...]:
        return (self.start,) if self.end is None else (self.start, self.end)

    def covers(self, trace: Sequence[TraceStep], index: int) -> bool:
        """Whether a step was taken by the holder inside."""
        inside = self.start < index and (self.end is None or index < self.end)
        return inside and trace[index].task.index == self.task


def _critical_sections(trace: Sequence[TraceStep]) -> list[_Section]:
    held: dict[tuple[int, str], tuple[int, bool]] = {}
    sections = []
    for index, step in enumerate(trace):
        task = step.task.index
        op = bare(step.op)
        if isinstance(op, Acquire):
            held[task, op.cell.name] = index, not isinstance(op, AcquireShared)
        elif isinstance(op, Release):
            start, alone = held.pop((task, op.cell.name), (index, True))
            sections.append(_Section(task, start, index, alone))
    return sections + [_Section(task, at, None, alone) for (task, _), (at, alone) in held.items()]


def _is_locked(read: _Access, write: _Access, sections: Sequence[_Section]) -> bool:
    """Whether one task did both while it held some lock alone."""
    return read.task == write.task and any(
        s.alone
        and s.task == read.task
        and s.start < read.index
        and (s.end is None or write.index < s.end)
        for s in sections
    )


def _around_writes(accesses: Sequence[_Access], sections: Sequence[_Section]) -> Iterator[int]:
    """The last writes of a cell, and the last read of each task that a write outdates.

    What a task reads and writes while it holds a lock is no race.
    """
    writes = [n for n, access in enumerate(accesses) if access.writes]
    if accesses and accesses[-1].is_lock:
        writes = writes[-1:]  # what counts of a lock is who has it
    for n in writes[-WRITES_MAX:]:
        yield accesses[n].index
        before = max((w for w in writes if w < n), default=-1)
        reads = {a.task: a for a in accesses[before + 1 : n]}.values()
        yield from (r.index for r in reads if not _is_locked(r, accesses[n], sections))
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
            if write.writes and not write.is_lock and write.is_observable:
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
    if isinstance(event, Goal | AuditPoint):
        return frozenset()
    fields = msgspec.structs.asdict(event).items()
    return frozenset((name, repr(value)) for name, value in fields if name not in ACTORS)
