"""Live runs: one schedule, on real coroutines.

A ``Run`` is a stepper without a loop of its own: a host asks ``next`` who steps and lets that task
``step``. All effects happen in here, so every host gives the same trace.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from vmm.engine import capture
from vmm.engine.cells import Cell
from vmm.engine.events import AuditPoint, Event, Goal, resolve
from vmm.engine.monitor import Change, Finding, Step, View
from vmm.engine.ops import Choose, Op
from vmm.engine.oracles import IncrementalAudits, Oracles, stuck
from vmm.engine.task import Program, Task, TaskKind
from vmm.engine.trace import BATCH, Digest, Ending, Outcome, TraceStep
from vmm.errors import ForeignAwait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vmm.engine.monitor import Monitor
    from vmm.engine.schedule import Picker
    from vmm.engine.world import World


class Run:
    """One execution of a world under a picker.

    ``monitors``: judge every step. ``record``: keep every step for a report. ``incremental``:
    audit what changed only, for long runs. ``step_budget``: the world's, if none is given.
    ``tasks`` replaces the world's own (used for set-up).
    """

    def __init__(
        self,
        world: World,
        picker: Picker,
        *,
        monitors: bool = True,
        record: bool = False,
        incremental: bool = False,
        step_budget: int | None = None,
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
        self.step_budget = world.step_budget if step_budget is None else step_budget
        self.ending: Ending | None = None
        self.findings: list[Finding] = []
        self.published: int | None = None
        """The task whose newly published op was the finding, if it was not a step."""
        self.goals = dict.fromkeys(world.goals, False)
        self.chosen = bytearray()
        self.branches: list[int] = []
        self.trace: list[TraceStep] = []
        self.oracles = Oracles(world, counting=True) if monitors else None
        self.states = self.oracles.initial() if self.oracles else ()
        self._audits = IncrementalAudits(self.oracles) if self.oracles and incremental else None
        self._view = View(self.memory.__getitem__, self.tasks, lambda: self.pending)
        self.keeps_steps = record
        self.audited: Mapping[object, object] = self._audits.listeners if self._audits else {}
        """The places of cells of which audits want to hear when they are written."""
        self.unheard = self._unheard_events()
        """Kinds of event that nobody listens to, as far as is known."""
        self.judges_pending = self.oracles is not None and bool(self.oracles.on_pending)
        self.asks_always = getattr(picker, "every_step", False)
        self.programs: list[Program | None] = [None] * len(self.tasks)
        self.sends: list[Callable[[object], Any]] = []
        """Resume each task; the result is what it publishes."""
        self.foreground = sum(task.kind is TaskKind.FOREGROUND for task in self.tasks)
        self.waiters: dict[int, list[int]] = {}
        self.settled = -1
        self._ends: dict[int, Ending | None] = {}
        self._ready_of: dict[int, list[int]] = {}
        self.digest = Digest()
        self.records: list[Any] = []

    # --- start and end ---

    def begin(self) -> None:
        """Start every task: each publishes its first op."""
        made_since = self.world.cells[len(self.memory) :]
        self.memory.extend([cell.initial for cell in made_since])
        self.world.live_memories.append(self.memory)
        judges, self.judges_pending = self.judges_pending, False
        for task in self.tasks:
            self.programs[task.index] = program = task.start()
            self.sends.append(sender(program, task.through))
            self._send(task.index, None)
        self.judges_pending = judges
        for number, op in enumerate(self.pending):
            if judges and op is not None and self.oracles is not None:
                # With what all have pending, as in any other state.
                self.judge_pending(number, op, self.oracles.concerned(op))
        self.published = None  # what is there from the start is nobody's
        self.settle()

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
        self.flush_records()
        return Outcome(
            ending=self.ending,
            steps=self.steps,
            digest=self.digest.hexdigest(),
            findings=tuple(self.findings),
            goals=self.goals,
            tasks=bytes(self.chosen),
            branches=tuple(self.branches),
            trace=tuple(self.trace),
            counts=self.oracles.summary(self.states) if self.oracles else {},
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
        result = self.take_effect(number, op)
        if self.ending is not None:
            return
        self._send(number, result)
        if op.writes:
            self.wake(op.written)
        if self.mask != self.settled:
            self.settle()

    def take_effect(self, number: int, op: Op) -> Any:
        """Carry out an op, record the step, judge it; gives the op's result."""
        memory, event = self.memory, op.event
        watched = self.keeps_steps or (event is not None and event.__class__ not in self.unheard)
        before: list[tuple[Cell[Any], Any]] = []
        if op.writes and (watched or self.audited):
            audited = self.audited
            before = [
                (cell, memory[cell.index])
                for cell in op.written
                if watched or cell.place in audited
            ]
        result, record = self.carry_out(number, op)
        tag = 0 if op.cell is None else op.cell.tag
        self.records.append((number, self.mask, op.code, tag, record))
        if len(self.records) >= BATCH:
            self.flush_records()
        self.steps += 1
        self.last = number
        if watched or before:
            self.watch(number, op, result, before)
        return result

    def carry_out(self, number: int, op: Op) -> tuple[Any, Any]:
        """The effect of an op on memory alone; gives (result, record)."""
        if op.__class__ is Choose:
            branch = self.branch(op)
            return branch, branch
        return op.run(self.memory, number)

    def _unheard_events(self) -> dict[type[Event], None]:
        """Without monitors all kinds but goals; with them, none is known yet."""
        if self.oracles is not None:
            return {}
        kinds: dict[type[Event], None] = {}
        found = Event.__subclasses__()
        while found:
            kind = found.pop()
            found += kind.__subclasses__()
            if not issubclass(kind, Goal):
                kinds[kind] = None
        return kinds

    def flush_records(self) -> None:
        """Hash the steps recorded so far. Batches are cut at the same steps on every host."""
        self.digest.feed(self.records)
        self.chosen.extend(map(itemgetter(0), self.records))
        self.records.clear()

    def branch(self, op: Op) -> int:
        """Which way out a choice takes."""
        asks = op.branches > 1 or self.asks_always
        branch = self.picker.branch(op.branches) if asks else 0
        self.branches.append(branch)
        return branch

    def _send(self, number: int, result: object) -> None:
        """Resume a task; note what it publishes, or that it ended."""
        try:
            op = self.sends[number](result)
        except StopIteration:
            self.ended(number)
            return
        if not isinstance(op, Op):
            raise self.foreign_await(number, op)
        self.publish(number, op)

    def publish(self, number: int, op: Op) -> None:
        """Note what a task is about to do, and whether it may."""
        previous = self.pending[number]
        self.pending[number] = op
        if previous is not None and previous.may_block:
            self._wait(previous, number, waits=False)
        if op.may_block:
            self._wait(op, number, waits=True)
            self._set_ready(number, enabled=op.enabled(self.memory, number))
        else:
            self._set_ready(number, enabled=True)
        if self.judges_pending and self.oracles is not None:
            self.judge_pending(number, op, self.oracles.concerned(op))

    def foreign_await(self, number: int, awaited: object) -> ForeignAwait:
        """The error of a task that awaits what is not an op."""
        program = self.programs[number]
        assert program is not None
        return ForeignAwait(foreign_await(self.tasks[number], program, awaited))

    def judge_pending(self, number: int, op: Op, judges: Iterable[Monitor]) -> None:
        """Let the monitors that it concerns look at an access that was just published."""
        task = self.tasks[number]
        for judge in judges:
            found = judge.on_pending(task, op, self._view)
            if found:
                self.published = number
                self._report(found)

    def ended(self, number: int) -> None:
        """Note that a task has run to its end."""
        previous = self.pending[number]
        if previous is not None and previous.may_block:
            self._wait(previous, number, waits=False)
        self.programs[number] = self.pending[number] = None
        self.foreground -= self.tasks[number].kind is TaskKind.FOREGROUND
        self._set_ready(number, enabled=False)
        self._ends.clear()
        self.settled = -1

    # --- who is enabled ---

    def _wait(self, op: Op, number: int, *, waits: bool) -> None:
        for cell in op.cells:
            waiting = self.waiters.setdefault(cell.index, [])
            if waits:
                waiting.append(number)
            else:
                waiting.remove(number)
                if not waiting:
                    del self.waiters[cell.index]

    def wake(self, written: tuple[Cell[Any], ...]) -> None:
        """Ask anew who may step of those that wait for cells which have been written."""
        waiters = self.waiters
        for cell in written:
            if cell.index not in waiters:
                continue
            for number in waiters[cell.index]:
                op = self.pending[number]
                assert op is not None
                self._set_ready(number, enabled=op.enabled(self.memory, number))

    def _set_ready(self, number: int, *, enabled: bool) -> None:
        bit = 1 << number
        self.mask = self.mask | bit if enabled else self.mask & ~bit

    def settle(self) -> None:
        """Who may step, and whether that is the end; both follow from the enabled set.

        To be called when the set may have changed since, or a task has ended.
        """
        mask = self.settled = self.mask
        if mask not in self._ready_of:
            self._ready_of[mask] = [n for n in range(len(self.tasks)) if mask >> n & 1]
        self.ready = self._ready_of[mask]
        if self.ending is None:
            if mask not in self._ends:
                self._ends[mask] = self._end_of(self.ready)
            self.ending = self._ends[mask]
            if self.ending is Ending.DEADLOCK and self.oracles is not None:
                pending = tuple(self.pending)
                judged = self.oracles.stuck(pending, self._view)
                self.findings.extend(judged or [stuck(self.world, pending, self._view)])

    def _end_of(self, ready: list[int]) -> Ending | None:
        kinds = [self.tasks[n].kind for n in ready]
        if not self.foreground:
            return None if TaskKind.EVENTUAL in kinds else Ending.QUIESCENT
        return Ending.DEADLOCK if all(kind is TaskKind.OPTIONAL for kind in kinds) else None

    # --- monitors and records ---

    def watch(self, number: int, op: Op, result: Any, before: list[tuple[Cell[Any], Any]]) -> None:
        """Note and judge what a step means; ``before`` are the values of what it may write."""
        events = resolve(op.event, result)
        for event in events:
            if isinstance(event, Goal) and event.name in self.goals:
                self.goals[event.name] = True
        if self.oracles is None and not self.keeps_steps:
            return
        changes = self._changes(before) if before else ()
        if self.keeps_steps:
            branch = result if isinstance(op, Choose) else None
            self.trace.append(
                TraceStep(
                    self.steps, self.tasks[number], op, self.mask, result, changes, events, branch
                )
            )
        if self.oracles is not None:
            self._judge(number, op, result, changes, events)

    def _changes(self, before: list[tuple[Cell[Any], Any]]) -> tuple[Change, ...]:
        """What of cells that had these values is another one now."""
        memory = self.memory
        return tuple(
            [
                Change(cell, old, memory[cell.index])
                for cell, old in before
                if _differ(old, memory[cell.index])
            ]
        )

    def _judge(
        self,
        number: int,
        op: Op,
        result: object,
        changes: tuple[Change, ...],
        events: tuple[Event, ...],
    ) -> None:
        assert self.oracles is not None
        if self._audits is not None:
            for change in changes:
                self._audits.note(change.cell)
        if not events:
            return
        step = Step(self.tasks[number], op, result, changes, events)
        self.states, found = self.oracles.step(
            self.states, step, self._view, audit=self._audits is None
        )
        for event in events:
            if isinstance(event, AuditPoint):
                if self._audits is not None:
                    found = (*found, *self._audits.at_point(self.states, self._view))
                    break
            elif not self.oracles.listeners[event.__class__] and not isinstance(event, Goal):
                self.unheard[event.__class__] = None
        if found:
            self._report(found)

    def _report(self, findings: Sequence[Finding]) -> None:
        if findings:
            self.findings.extend(findings)
            self.ending = Ending.FINDING


def _differ(old: object, new: object) -> bool:
    """Whether a write changed anything: by value, because identity is up to the interpreter."""
    return old is not new and (old != new or type(old) is not type(new))


def sender(program: Program, through: Callable[[Any], Any] | None) -> Callable[[object], Any]:
    """What resumes a program and gives what its processor does next."""
    send = program.send
    return send if through is None else lambda result: through(send(result))


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
