"""A round that may repeat for ever, seen by a live run.

What a search says of a fair livelock is checked here on real coroutines: the steps lead back to
the very same state, no task was passed over that could always step, nor overtaken that waits for a
lock, and nobody got on.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import TYPE_CHECKING

from vmm.engine.automaton import op_key, require_capture
from vmm.engine.capture import capture, value_key
from vmm.engine.task import TaskKind
from vmm.search.liveness import awaited_locks, is_progress, livelock, queue_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vmm.engine.events import Event
    from vmm.engine.live import Run
    from vmm.engine.monitor import Finding
    from vmm.engine.ops import Op


class Round:
    """Begun in the state that it is to come back to."""

    def __init__(self, run: Run) -> None:
        require_capture()
        self._run = run
        self._first = run.steps
        self._pending = tuple(run.pending)
        self._memory = _memory(run)
        self._rest = _rest(run)
        self._ops: list[tuple[int, Op]] = []
        self._always = -1
        self._overtaken = 0
        self._gets_on = False

    def step(self, number: int, op: Op) -> None:
        """A task is about to step."""
        self._ops.append((number, op))
        self._always &= self._run.mask
        if (taken := queue_of(op)) is not None:
            for task, lock in awaited_locks(self._run.world, self._run.pending).items():
                if lock == taken and task != number:
                    self._overtaken |= 1 << task

    def saw(self, number: int, events: Iterable[Event]) -> None:
        """The events of a step."""
        run = self._run
        self._gets_on = self._gets_on or is_progress(run.world, run.tasks[number], events)

    def is_closed(self) -> bool:
        """Whether the run is back where the round began."""
        world = self._run.world
        made_since = world.cells[len(self._memory) :]
        initial = [value_key(cell.initial, world.registry) for cell in made_since]
        return [*self._memory, *initial] == _memory(self._run) and self._rest == _rest(self._run)

    def findings(self) -> tuple[Finding, ...]:
        """The livelock, if the round is fair and nobody gets on in it."""
        run = self._run
        stepping = dict.fromkeys([number for number, _ in self._ops])
        passed_over = any(
            (self._always | self._overtaken) >> task.index & 1 and task.index not in stepping
            for task in run.tasks
            if task.kind is not TaskKind.OPTIONAL
        )
        optional = any(run.tasks[number].kind is TaskKind.OPTIONAL for number in stepping)
        if passed_over or optional or self._gets_on:
            return ()
        return (livelock(run.world, self._pending, self._first, self._ops, is_lost=False),)


def _memory(run: Run) -> list[Hashable]:
    return [value_key(value, run.world.registry) for value in run.memory]


def _rest(run: Run) -> Hashable:
    """The local states of the tasks, and the monitors' states but those of monitors that count."""
    world = run.world
    locals_ = [
        program
        and (
            capture(program, world.registry, op_key=partial(op_key, world=world, task=task)),
            op_key(op, world, task),
        )
        for task, program, op in zip(run.tasks, run.programs, run.pending, strict=True)
    ]
    monitors = run.oracles.monitors if run.oracles is not None else ()
    judged = [s for m, s in zip(monitors, run.states, strict=True) if not m.counts]
    return tuple(locals_), tuple(judged)
