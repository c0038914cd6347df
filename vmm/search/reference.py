"""The reference search: breadth-first, on dictionaries and tuples, short enough to trust.

A state is (value ids of the cells, local states of the tasks, states of the monitors). Faster
searches are held against this one. What ends and what counts is what a live run does:

- Quiet (every foreground task has ended, no eventual step is enabled) and deadlocked states (not
  quiet, and only optional steps are enabled) are ends: nothing is expanded from there, although a
  daemon or an optional task might still move.
- A step with findings is counted as a transition, but the state behind it is not visited.
- Breadth-first order makes the counterexample a shortest one.

A cell made while the search runs holds its initial value in all states before. Such values are
left out at the end of a state, so that it is the same state whenever the cell was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vmm.engine.automaton import ENDED, Automaton, Edge, Values
from vmm.engine.events import Event, Goal
from vmm.engine.monitor import Change, Finding, Step, View
from vmm.engine.oracles import Oracles, States, stuck
from vmm.engine.schedule import Schedule
from vmm.engine.task import TaskKind
from vmm.search.liveness import (
    Queues,
    Way,
    awaited_locks,
    is_progress,
    lasso,
    livelock,
    taken_locks,
)
from vmm.search.result import Result, Verdict

if TYPE_CHECKING:
    from vmm.engine.ops import Op
    from vmm.engine.world import World

Memory = tuple[int, ...]
Locals = tuple[int, ...]
State = tuple[Memory, Locals, States]
Move = tuple[int, Edge]
"""A task and an edge that it may take."""


Progress = Callable[[int, int], None]
"""Told after each level: states so far, and how many of them are yet to be expanded."""


def search(
    world: World,
    *,
    monitors: bool = True,
    stop_at_first: bool = True,
    max_states: int | None = None,
    witnesses: bool = True,
    on_progress: Progress | None = None,
) -> Result:
    """Visit every reachable state of ``world``.

    ``max_states`` ends the search soon after so many; Ctrl-C ends it as well; both keep what was
    found. Errors: whatever a task raises, CaptureRefused, ForeignAwait, Nondeterminism.
    """
    run = ReferenceSearch(world, monitors=monitors, witnesses=witnesses, max_states=max_states)
    try:
        run.visit_all(stop_at_first=stop_at_first, on_progress=on_progress)
    finally:
        run.close()
    return run.result()


class ReferenceSearch:
    """The states seen, how each was first reached, and what was found on the way."""

    def __init__(
        self, world: World, *, monitors: bool, witnesses: bool, max_states: int | None
    ) -> None:
        self.world = world
        self.max_states = max_states
        self.oracles = Oracles(world, counting=False) if monitors else None
        self.values = Values(world.registry)
        self.automata: list[Automaton] = []
        self.witnesses = witnesses
        self.initial: list[int] = []
        self.dense = 0

        self.numbers: dict[State, int] = {}
        self.paths: list[tuple[int, Move] | None] = []
        self.depth = self.transitions = self.deadlocks = 0
        self.unfinished = True
        self.first: tuple[int, tuple[Finding, ...], Schedule] | None = None
        self.goals = dict.fromkeys(world.goals, False)
        self.contents: dict[tuple[tuple[int, int], ...], None] = {}
        # For livelocks: the graph without optional steps, and where it ends.
        self.steps: list[tuple[int, Move, int]] = []
        self.ends: list[int] = []

        def of_kind(*kinds: TaskKind) -> tuple[int, ...]:
            return tuple([task.index for task in world.tasks if task.kind in kinds])

        self.foreground = of_kind(TaskKind.FOREGROUND)
        self.eventual = of_kind(TaskKind.EVENTUAL)
        self.optional = of_kind(TaskKind.OPTIONAL)
        self.waited = of_kind(TaskKind.FOREGROUND, TaskKind.DAEMON, TaskKind.EVENTUAL)
        self.idle = of_kind(TaskKind.FOREGROUND, TaskKind.DAEMON, TaskKind.OPTIONAL)

    # --- the search ---

    def visit_all(self, *, stop_at_first: bool, on_progress: Progress | None) -> None:
        """Level by level, so that what is found first is what has the fewest steps."""
        try:
            frontier = self.begin()
            while frontier and not (stop_at_first and self.first):
                frontier = self.visit_level(frontier)
                self.depth += bool(frontier)
                if on_progress is not None:
                    on_progress(len(self.paths), len(frontier))
                if self.max_states is not None and len(self.paths) > self.max_states:
                    return
            self.unfinished = bool(frontier)
        except KeyboardInterrupt:
            return
        if not self.unfinished and not self.first:
            self.find_livelock()

    def begin(self) -> list[tuple[int, State]]:
        """The frontier that holds the initial state; empty if that is a finding already."""
        for task in self.world.tasks:
            made = Automaton(task, self.values, self.world, witnesses=self.witnesses)
            self.automata.append(made)
        self.dense = len(self.world.cells)
        memory = tuple([self.initial_of(cell) for cell in range(self.dense)])
        locals_ = tuple([automaton.start for automaton in self.automata])
        states: States = ()
        findings: list[Finding] = []
        if self.oracles is not None:
            states = self.oracles.initial()
            for number, local in enumerate(locals_):
                findings += self.judge_pending(number, local, self.view(memory, locals_))
        start = (memory, locals_, states)
        self.numbers[start] = 0
        self.paths.append(None)
        if findings:
            self.note(findings, 0)
            return []
        return [(0, start)]

    def visit_level(self, frontier: Sequence[tuple[int, State]]) -> list[tuple[int, State]]:
        """Expand all states of one depth; gives those of the next one."""
        fresh: list[tuple[int, State]] = []
        numbers, paths = self.numbers, self.paths
        for number, (memory, locals_, states) in frontier:
            moves = self.moves(memory, locals_)
            if not moves:
                self.end(number, memory, locals_)
            for move in moves:
                self.transitions += 1
                state = self.follow(number, (memory, locals_, states), move)
                if state is None:
                    continue
                target = numbers.setdefault(state, len(paths))
                if target == len(paths):
                    paths.append((number, move))
                    fresh.append((target, state))
                if move[0] not in self.optional:
                    self.steps.append((number, move, target))
            if self.max_states is not None and len(paths) > self.max_states:
                break
        return fresh

    def follow(self, number: int, state: State, move: Move) -> State | None:
        """The state behind a move; None behind one with findings, which are noted."""
        (memory, locals_, states), (task, edge) = state, move
        written = self.write(memory, edge.writes) if edge.writes else memory
        after = (*locals_[:task], edge.following, *locals_[task + 1 :])
        if edge.events:
            self.reach(edge.events)
        if self.oracles is not None:
            local = locals_[task]
            states, found = self.judge(task, local, edge, memory, (written, after), states)
            if found:
                self.note(found, number, move)
                return None
        return written, after, states

    def moves(self, memory: Memory, locals_: Locals) -> list[Move]:
        """The enabled edges; none in a quiet or deadlocked state.

        While a foreground task runs, a state ends a run unless some task that is not optional can
        move; after that, unless an eventual one can. The others are asked only if it goes on.
        """
        running = self.is_running(locals_)
        moves = self.edges(self.waited if running else self.eventual, memory, locals_)
        if moves:
            moves += self.edges(self.optional if running else self.idle, memory, locals_)
        return moves

    def edges(self, tasks: Sequence[int], memory: Memory, locals_: Locals) -> list[Move]:
        moves = []
        for task in tasks:
            local = locals_[task]
            if local != ENDED:
                automaton = self.automata[task]
                try:
                    found = tuple([memory[cell] for cell in automaton.cells[local]])
                except IndexError:
                    found = tuple([self.id_in(memory, c) for c in automaton.cells[local]])
                moves += [(task, edge) for edge in automaton.expand(local, found)]
        return moves

    def is_running(self, locals_: Locals) -> bool:
        return any(locals_[task] != ENDED for task in self.foreground)

    def pending(self, locals_: Locals) -> tuple[Op | None, ...]:
        """What each task waits to do; None if it has ended."""
        return tuple(
            [
                automaton.ops[local] if local != ENDED else None
                for automaton, local in zip(self.automata, locals_, strict=True)
            ]
        )

    # --- memory ---

    def initial_of(self, cell: int) -> int:
        while cell >= len(self.initial):
            made = self.world.cells[len(self.initial)]
            self.initial.append(self.values.intern(made.initial, f"cell {made.name}"))
        return self.initial[cell]

    def id_in(self, memory: Memory, cell: int) -> int:
        return memory[cell] if cell < len(memory) else self.initial_of(cell)

    def value_in(self, memory: Memory, cell: int) -> Any:
        return self.values.value(self.id_in(memory, cell))

    def write(self, memory: Memory, writes: Sequence[tuple[int, int]]) -> Memory:
        changed = list(memory)
        for cell, value in writes:
            while cell >= len(changed):
                changed.append(self.initial_of(len(changed)))
            changed[cell] = value
        while len(changed) > self.dense and changed[-1] == self.initial_of(len(changed) - 1):
            del changed[-1]
        return tuple(changed)

    # --- judgement ---

    def judge(
        self,
        task: int,
        local: int,
        edge: Edge,
        before: Memory,
        after: tuple[Memory, Locals],
        states: States,
    ) -> tuple[States, Sequence[Finding]]:
        """The monitors' states after a step, and what they find: in the order of a live run."""
        assert self.oracles is not None
        view = self.view(*after)
        if edge.events:
            cells, values = self.world.cells, self.values
            changes = tuple(
                [
                    Change(cells[cell], self.value_in(before, cell), values.value(new))
                    for cell, new in edge.writes
                ]
            )
            op = self.automata[task].ops[local]
            step = Step(self.world.tasks[task], op, edge.result, changes, edge.events)
            states, found = self.oracles.step(states, step, view)
            if found:
                return states, found
        return states, self.judge_pending(task, edge.following, view)

    def judge_pending(self, task: int, local: int, view: View) -> Sequence[Finding]:
        """What the monitors say to the access that a task has just published."""
        if self.oracles is None or not self.oracles.on_pending or local == ENDED:
            return ()
        op = self.automata[task].ops[local]
        return self.oracles.pending(self.world.tasks[task], op, view)

    def view(self, memory: Memory, locals_: Locals) -> View:
        return View(
            lambda cell: self.value_in(memory, cell),
            self.world.tasks,
            lambda: self.pending(locals_),
        )

    def reach(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Goal) and event.name in self.goals:
                self.goals[event.name] = True

    def end(self, number: int, memory: Memory, locals_: Locals) -> None:
        """Note a quiet or deadlocked state."""
        self.ends.append(number)
        content = [
            (cell.index, self.id_in(memory, cell.index))
            for cell in self.world.cells
            if cell.observable
        ]
        shown = [
            (cell, value)
            for cell, value in content
            if self.world.cells[cell].array is None or value != self.initial_of(cell)
        ]
        self.contents[tuple(shown)] = None
        if self.is_running(locals_):
            self.deadlocks += 1
            pending, view = self.pending(locals_), self.view(memory, locals_)
            found = self.oracles.stuck(pending, view) if self.oracles is not None else []
            self.note(found or [stuck(self.world, pending, view)], number)

    def note(self, findings: Sequence[Finding], number: int, *more: Move) -> None:
        """Keep findings in a state, or behind more moves from there, if none has fewer steps."""
        path = [*self.path_to(number), *more]
        if self.first is None or len(path) < self.first[0]:
            self.first = len(path), tuple(findings), _schedule(path)

    def path_to(self, number: int) -> list[Move]:
        moves = []
        while (step := self.paths[number]) is not None:
            number, move = step
            moves.append(move)
        return moves[::-1]

    # --- livelock ---

    def find_livelock(self) -> None:
        """Note a livelock of a world that is clean otherwise: one that starts after fewest steps.

        An inescapable one comes before one that is fair only.
        """
        lost = self.lost()
        ways: dict[int, list[Way]] = {number: [] for number in range(len(self.paths))}
        enabled = dict.fromkeys(ways, 0)
        for at, (source, (task, edge), target) in enumerate(self.steps):
            enabled[source] |= 1 << task
            if not is_progress(self.world, self.world.tasks[task], edge.events):
                ways[source].append(Way(task, target, at))
        locals_of = [locals_ for _, locals_, _ in self.numbers]

        def awaited(number: int) -> dict[int, int]:
            return awaited_locks(self.world, self.pending(locals_of[number]))

        def taken(step: int) -> tuple[int, ...]:
            source, (task, _), _ = self.steps[step]
            return taken_locks([self.automata[task].ops[locals_of[source][task]]])

        found = lasso(ways, enabled, lost if any(lost) else None, Queues(awaited, taken))
        if found is None:
            return
        locals_ = locals_of[found.start]
        stem, now, ops = self.path_to(found.start), list(locals_), []
        round_ = [self.steps[way.edge][1] for way in found.round]
        for task, edge in round_:
            ops.append((task, self.automata[task].ops[now[task]]))
            now[task] = edge.following
        pending = self.pending(locals_)
        finding = livelock(self.world, pending, len(stem), ops, is_lost=found.is_lost)
        schedule = _schedule([*stem, *round_], len(stem) if round_ else None)
        self.first = len(schedule.tasks), (finding,), schedule

    def lost(self) -> list[bool]:
        """By state: whether no end can be reached from there without optional steps.

        A deadlock is an end here, as it is a finding of its own.
        """
        back: list[list[int]] = [[] for _ in self.paths]
        for source, _, target in self.steps:
            back[target].append(source)
        lost = [True] * len(self.paths)
        reached = list(dict.fromkeys(self.ends))
        for number in reached:
            lost[number] = False
        while reached:
            for source in back[reached.pop()]:
                if lost[source]:
                    lost[source] = False
                    reached.append(source)
        return lost

    # --- result ---

    def result(self) -> Result:
        complete = not self.unfinished
        _, findings, schedule = self.first or (0, (), None)
        clean = Verdict.CLEAN if complete else Verdict.INCOMPLETE
        cells = self.world.cells
        return Result(
            verdict=Verdict.VIOLATED if findings else clean,
            complete=complete,
            states=len(self.paths),
            transitions=self.transitions,
            depth=self.depth,
            deadlocks=self.deadlocks,
            findings=findings,
            schedule=schedule,
            goals=self.goals,
            terminal=tuple(
                [
                    {cells[cell].name: self.values.value(value) for cell, value in content}
                    for content in self.contents
                ]
            ),
            local_states=tuple([len(automaton.ops) for automaton in self.automata]),
        )

    def close(self) -> None:
        for automaton in self.automata:
            automaton.close()


def _schedule(path: Sequence[Move], repeats_from: int | None = None) -> Schedule:
    return Schedule(
        tasks=bytes([task for task, _ in path]),
        branches=tuple([edge.branch for _, edge in path if edge.branch is not None]),
        repeats_from=repeats_from,
    )
