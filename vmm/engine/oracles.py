"""The monitors of a world at work, as one automaton whose state is a tuple."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vmm.engine.events import AuditPoint, Event
from vmm.engine.monitor import Audit, Finding, Monitor, Step, Verdict, View
from vmm.engine.ops import Cas, Read, Update, Write
from vmm.engine.tso import bare
from vmm.engine.waits import who_waits

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.ops import Op
    from vmm.engine.task import Task
    from vmm.engine.world import World

States = tuple[Any, ...]
OnEvent = Callable[[Any, Event, Step, View], Verdict]
ONE_CELL = dict.fromkeys((Read, Write, Cas, Update))
"""The ops of one cell that make up most steps."""


class Listeners(dict[type[Event], tuple[tuple[int, OnEvent], ...]]):
    """What judges the events of a class: number and method of each monitor that names it."""

    def __init__(self, monitors: tuple[Monitor, ...]) -> None:
        super().__init__()
        self._monitors = monitors

    def __missing__(self, event: type[Event]) -> tuple[tuple[int, OnEvent], ...]:
        found = tuple(
            (n, m.on_event) for n, m in enumerate(self._monitors) if issubclass(event, m.events)
        )
        self[event] = found
        return found


class Oracles:
    """Dispatches steps to the monitors that want to see them; holds no state of a run.

    ``counting`` adds the monitors whose states never repeat; a search leaves them out.
    """

    def __init__(self, world: World, *, counting: bool) -> None:
        self.world = world
        self.monitors = tuple(m for m in world.monitors if counting or not m.counts)
        self.audits = tuple(m for m in self.monitors if isinstance(m, Audit))
        self.on_pending = tuple(m for m in self.monitors if m.sees_pending)
        self.on_stuck = tuple(m for m in self.monitors if m.sees_stuck)
        self.numbers = {m.name: number for number, m in enumerate(self.monitors)}
        self._by_place: dict[object, tuple[Monitor, ...]] = {}
        self.listeners = Listeners(self.monitors)

    def initial(self) -> States:
        """The states before the first step."""
        warm = self.world.monitor_states
        return tuple(warm[m.name] if m.name in warm else m.initial() for m in self.monitors)

    def step(
        self, states: States, step: Step, view: View, *, audit: bool = True
    ) -> tuple[States, tuple[Finding, ...]]:
        """The states after a step that carries events, and the findings.

        ``audit=False`` leaves the audits to the caller, who does them incrementally.
        """
        findings: list[Finding] = []
        for event in step.events:
            for number, on_event in self.listeners[event.__class__]:
                before = states[number]
                state, found = on_event(before, event, step, view)
                if state is not before:
                    states = (*states[:number], state, *states[number + 1 :])
                if found:
                    findings.extend(found)
            if audit and isinstance(event, AuditPoint):
                findings.extend(self.audit(states, view))
        return states, tuple(findings)

    def summary(self, states: States) -> dict[str, int]:
        """What the counting monitors have counted."""
        found: dict[str, int] = {}
        for monitor, state in zip(self.monitors, states, strict=True):
            found.update(monitor.summary(state))
        return found

    def audit(self, states: States, view: View) -> list[Finding]:
        """All audits, in full."""
        return [f for m in self.audits for f in m.full(states[self.numbers[m.name]], view)]

    def pending(self, task: Task, op: Op, view: View) -> list[Finding]:
        """Judge an access as it is published."""
        return [f for monitor in self.concerned(op) for f in monitor.on_pending(task, op, view)]

    def concerned(self, op: Op) -> tuple[Monitor, ...]:
        """The monitors that want to see an access; all cells of an array are alike to them."""
        if op.__class__ in ONE_CELL:
            assert op.cell is not None
            found = self._by_place.get(op.cell.place)
            return self._concerned(op.cell) if found is None else found
        inner = bare(op)
        judges: tuple[Monitor, ...] = ()
        for cell in op.cells if inner is op else (*op.cells, *inner.cells):
            found = self._concerned(cell)
            if found:
                judges = (*judges, *[m for m in found if m not in judges]) if judges else found
        return judges

    def _concerned(self, cell: Cell[Any]) -> tuple[Monitor, ...]:
        found = self._by_place.get(cell.place)
        if found is None:
            found = tuple([m for m in self.on_pending if m.sees_access(cell)])
            self._by_place[cell.place] = found
        return found

    def stuck(self, pending: tuple[Op | None, ...], view: View) -> list[Finding]:
        """Judge a state that nothing leaves although it is not quiet."""
        return [f for m in self.on_stuck for f in m.on_stuck(self.world, pending, view)]


def stuck(world: World, pending: Sequence[Op | None], view: View) -> Finding:
    """A deadlock on which no monitor has anything to say: who waits for what."""
    waits = who_waits(world, pending, view)
    return Finding(
        code="deadlock/stuck",
        message=f"nothing can move: {waits.message}",
        rule="while a foreground task has not ended, some task that is not optional can move",
        source="the definition of deadlock",
        cells=waits.cells,
    )


class IncrementalAudits:
    """Audits of one long live run: each looks at what was written since its last look.

    Every ``CHECKPOINT``-th audit point is audited in full as well, and so is the last state. What
    the full audit finds and the incremental ones had not is reported under its own code, and that
    an incremental audit missed it is said in the message.
    """

    CHECKPOINT = 1024

    def __init__(self, oracles: Oracles) -> None:
        self._oracles = oracles
        self._written: list[dict[Cell[Any], None]] = [{} for _ in oracles.audits]
        self.listeners: dict[object, tuple[int, ...]] = {}
        """The audits that want to hear of writes to a place, by number."""
        for number, audit in enumerate(oracles.audits):
            for watched in audit.watched():
                self.listeners[watched] = (*self.listeners.get(watched, ()), number)
        self._points = 0

    def note(self, cell: Cell[Any]) -> None:
        """Remember that a cell was written."""
        for number in self.listeners.get(cell.place, ()):
            self._written[number][cell] = None

    def at_point(self, states: States, view: View) -> list[Finding]:
        """Audit what was written since the last point; in full at checkpoints."""
        findings: list[Finding] = []
        for number, audit in enumerate(self._oracles.audits):
            written = self._written[number]
            if written:
                state = states[self._oracles.numbers[audit.name]]
                findings.extend(audit.incremental(state, view, tuple(written)))
                written.clear()
        self._points += 1
        if not findings and self._points % self.CHECKPOINT == 0:
            findings = self.in_full(states, view)
        return findings

    def in_full(self, states: States, view: View) -> list[Finding]:
        """The checkpoint: what the full audits find, none of it seen incrementally."""
        return [
            Finding(
                f.code,
                f"{f.message} (the incremental audit missed it)",
                f.rule,
                f.source,
                f.cells,
            )
            for f in self._oracles.audit(states, view)
        ]
