"""Live runs: one schedule, on real coroutines.

A ``Run`` is a stepper without a loop of its own: a host asks ``next`` who steps and lets that task
``step``. All effects happen in here, so every host gives the same trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmm.engine import capture
from vmm.engine.cells import Cell
from vmm.engine.events import AuditPoint, Event, Goal, resolve
from vmm.engine.monitor import Change, Finding, Step, View
from vmm.engine.ops import Choose, Op, Read, Write
from vmm.engine.oracles import IncrementalAudits, Oracles, stuck
from vmm.engine.task import Program, Task, TaskKind
from vmm.engine.trace import BATCH, Digest, Ending, Outcome, TraceStep
from vmm.errors import ForeignAwait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm.engine.schedule import Picker
    from vmm.engine.world import World

STEP_BUDGET = 1_000_000
"""Steps after which a run gives up: far above any scenario, so that a livelock ends."""


class Run:
    """One execution of a world under a picker.

    ``monitors``: judge every step. ``record``: keep every step for a report. ``incremental``:
    audit what changed only, for long runs. ``tasks`` replaces the world's own (used for set-up).
    """

    def __init__(
        self,
        world: World,
        picker: Picker,
        *,
        monitors: bool = True,
        record: bool = False,
        incremental: bool = False,
        step_budget: int = STEP_BUDGET,
        tasks: Sequence[Task] | None = None,
    ) -> None:
        self.world = world
        self.picker = picker
        self.tasks = tuple(world.tasks if tasks is None else tasks)
        self.memory: list[Any] = [cell.initial for cell in world.cells]
        self.pending: list[Op | None] = [None] * len(self.tasks)
        self.ready: list[int] = []
        self.mask = 0
        self.last = -1
        self.steps = 0
        self.step_budget = step_budget
        self.ending: Ending | None = None
        self.findings: list[Finding] = []
        self.goals = dict.fromkeys(world.goals, False)
        self.chosen = bytearray()
        self.branches: list[int] = []
        self.trace: list[TraceStep] = []
        self.oracles = Oracles(world, counting=True) if monitors else None
        self.states = self.oracles.initial() if self.oracles else ()
        self._audits = IncrementalAudits(self.oracles) if self.oracles and incremental else None
        self._view = View(self.memory.__getitem__)
        self._record = record
        self.watches_all = record or self._audits is not None
        self.judges_pending = self.oracles is not None and bool(self.oracles.on_pending)
        self.asks_always = getattr(picker, "every_step", False)
        self.programs: list[Program | None] = [None] * len(self.tasks)
        self.foreground = sum(task.kind is TaskKind.FOREGROUND for task in self.tasks)
        self.blockers: dict[int, int] = {}
        self.digest = Digest()
        self.records: list[Any] = []

    # --- start and end ---

    def begin(self) -> None:
        """Start every task: each publishes its first op."""
        made_since = self.world.cells[len(self.memory) :]
        self.memory.extend([cell.initial for cell in made_since])
        self.world.live_memories.append(self.memory)
        for task in self.tasks:
            self.programs[task.index] = task.start()
            self._send(task.index, None)
        self.refresh()

    def close(self) -> None:
        """Discard what is left of the tasks."""
        memories = self.world.live_memories
        memories[:] = [memory for memory in memories if memory is not self.memory]
        for number, program in enumerate(self.programs):
            if program is not None:
                self.programs[number] = None
                capture.close(program)

    def outcome(self) -> Outcome:
        """What came of it, once ``next`` has said None."""
        assert self.ending is not None, "the run is not over"
        if self._audits is not None and not self.findings:
            self.findings.extend(self._audits.in_full(self.states, self._view))
            self.ending = Ending.FINDING if self.findings else self.ending
        self.digest.feed(self.records)
        self.records = []
        return Outcome(
            ending=self.ending,
            steps=self.steps,
            digest=self.digest.hexdigest(),
            findings=tuple(self.findings),
            goals=self.goals,
            tasks=bytes(self.chosen),
            branches=tuple(self.branches),
            trace=tuple(self.trace),
        )

    # --- stepping ---

    def next(self) -> int | None:
        """Who steps next, or None when the run is over."""
        if self.ending is not None:
            return None
        if self.steps >= self.step_budget:
            self.ending = Ending.STEP_BUDGET
            return None
        if len(self.ready) == 1 and not self.asks_always:
            return self.ready[0]
        return self.picker.pick(self.ready, self.pending, self.last)

    def step(self, number: int) -> None:
        """Let a task's pending op take effect, then let the task publish its next one."""
        op = self.pending[number]
        assert op is not None, "a finished task cannot step"
        memory = self.memory
        watched = op.event is not None or self.watches_all
        before: tuple[tuple[Cell[Any], Any], ...] = ()
        if watched and op.writes:
            before = tuple([(cell, memory[cell.index]) for cell in op.written])
        kind = op.__class__
        if kind is Read:
            cell = op.cell
            result = record = memory[cell.index]  # type: ignore[union-attr]
        elif kind is Write:
            cell = op.cell
            result, record = None, op.value  # type: ignore[attr-defined]
            memory[cell.index] = record  # type: ignore[union-attr]
        elif kind is Choose:
            cell = None
            result = record = self.branch(op)
        else:
            cell = op.cell
            result, record = op.run(memory, number)
        self.records.append(
            (number, self.mask, op.code, cell.tag if cell is not None else 0, record)
        )
        if len(self.records) == BATCH:
            self.digest.feed(self.records)
            self.records = []
        self.steps += 1
        self.chosen.append(number)
        self.last = number
        if watched:
            self.watch(number, op, result, before)
            if self.ending is not None:
                return
        self._send(number, result)
        if (op.writes and self._wakes(op)) or self._became_blocker(number):
            self.refresh()

    def branch(self, op: Op) -> int:
        """Which way out a choice takes."""
        asks = op.branches > 1 or self.asks_always
        branch = self.picker.branch(op.branches) if asks else 0
        self.branches.append(branch)
        return branch

    def _send(self, number: int, result: object) -> None:
        """Resume a task; note what it publishes, or that it ended."""
        previous = self.pending[number]
        if previous is not None and previous.may_block:
            self.count_blocker(previous, -1)
        program = self.programs[number]
        assert program is not None
        try:
            op = program.send(result)
        except StopIteration:
            self.ended(number)
            return
        if not isinstance(op, Op):
            raise self.foreign_await(number, op)
        self.pending[number] = op
        if op.may_block:
            self.count_blocker(op, 1)
        if self.judges_pending:
            self.judge_pending(number, op)

    def foreign_await(self, number: int, awaited: object) -> ForeignAwait:
        """The error of a task that awaits what is not an op."""
        program = self.programs[number]
        assert program is not None
        return ForeignAwait(foreign_await(self.tasks[number], program, awaited))

    def judge_pending(self, number: int, op: Op) -> None:
        """Let the monitors look at an access that was just published."""
        assert self.oracles is not None
        self._report(self.oracles.pending(self.tasks[number], op, self._view))

    def ended(self, number: int) -> None:
        """Note that a task has run to its end."""
        self.programs[number] = self.pending[number] = None
        self.foreground -= self.tasks[number].kind is TaskKind.FOREGROUND

    # --- who is enabled ---

    def count_blocker(self, op: Op, change: int) -> None:
        """Keep count, for each cell, of the pending ops that it may enable."""
        blockers = self.blockers
        for cell in op.cells:
            blockers[cell.index] = blockers.get(cell.index, 0) + change

    def _wakes(self, op: Op) -> bool:
        blockers = self.blockers
        return any([blockers.get(cell.index) for cell in op.written])  # noqa: C419 - a list is faster

    def _became_blocker(self, number: int) -> bool:
        op = self.pending[number]
        return op is None or op.may_block

    def refresh(self) -> None:
        """Find out anew who is enabled, and whether that is the end."""
        memory, ready, mask = self.memory, [], 0
        for number, op in enumerate(self.pending):
            if op is not None and (not op.may_block or op.enabled(memory, number)):
                ready.append(number)
                mask |= 1 << number
        self.ready, self.mask = ready, mask
        if self.ending is None:
            self._look_for_the_end()

    def _look_for_the_end(self) -> None:
        moving = [self.tasks[n].kind for n in self.ready]
        if not self.foreground:
            if TaskKind.EVENTUAL not in moving:
                self.ending = Ending.QUIESCENT
        elif all(kind is TaskKind.OPTIONAL for kind in moving):
            self.ending = Ending.DEADLOCK
            if self.oracles is not None:
                pending = tuple(self.pending)
                judged = self.oracles.stuck(pending)
                self.findings.extend(judged or [stuck(self.world, pending, self._view)])

    # --- monitors and records ---

    def watch(
        self, number: int, op: Op, result: Any, before: tuple[tuple[Cell[Any], Any], ...]
    ) -> None:
        """Note and judge what a step means; ``before`` are the values of what it may write."""
        events = resolve(op.event, result)
        for event in events:
            if isinstance(event, Goal) and event.name in self.goals:
                self.goals[event.name] = True
        if self.oracles is None and not self._record:
            return
        changes = tuple(
            [
                Change(cell, old, self.memory[cell.index])
                for cell, old in before
                if _differ(old, self.memory[cell.index])
            ]
        )
        if self._record:
            branch = result if isinstance(op, Choose) else None
            self.trace.append(
                TraceStep(
                    self.steps, self.tasks[number], op, self.mask, result, changes, events, branch
                )
            )
        if self.oracles is not None:
            self._judge(number, op, result, changes, events)

    def _judge(
        self,
        number: int,
        op: Op,
        result: object,
        changes: tuple[Change, ...],
        events: tuple[Event, ...],
    ) -> None:
        assert self.oracles is not None
        if self._audits is not None and changes:
            self._audits.note([change.cell for change in changes])
        if not events:
            return
        step = Step(self.tasks[number], op, result, changes, events)
        self.states, found = self.oracles.step(
            self.states, step, self._view, audit=self._audits is None
        )
        if self._audits is not None and any(isinstance(e, AuditPoint) for e in events):
            found = (*found, *self._audits.at_point(self.states, self._view))
        self._report(found)

    def _report(self, findings: Sequence[Finding]) -> None:
        if findings:
            self.findings.extend(findings)
            self.ending = Ending.FINDING


def _differ(old: object, new: object) -> bool:
    """Whether a write changed anything: by value, because identity is up to the interpreter."""
    return old is not new and (old != new or type(old) is not type(new))


def foreign_await(task: Task, program: Program, awaited: object) -> str:
    """The message for a task that awaits what is not an op."""
    inner: Any = program
    while getattr(inner, "cr_await", None) is not None and hasattr(inner.cr_await, "cr_frame"):
        inner = inner.cr_await
    frame = inner.cr_frame
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "its program"
    return (
        f"task {task.name} awaits a foreign {type(awaited).__name__} at {where}: a task may await "
        "only cells, ops and model objects (no asyncio or trio call: the engine is its scheduler)"
    )
