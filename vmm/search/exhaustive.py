"""The exhaustive search: breadth-first over learned tables, a whole frontier at a time in numpy.

It means what the reference search means, state by state; see there for what ends and what counts.
A state is a row of small numbers (``columns``). Where it leads to is looked up among learned moves
(``moves``): what tasks do, and what monitors say to that, is asked of Python only for inputs that
never occurred before. A move adds a constant to the hash of its row, so that rows are built for new
states only, and dropped once they are expanded: what stays of a state is its hash, its predecessor
and its moves.

Two states with the same 64-bit hash are taken for one. That this ever happens in a search of n
states has a probability below n^2 / 2^65; another ``seed`` gives other hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vmm.engine.automaton import Automaton, Values
from vmm.engine.events import Goal
from vmm.engine.monitor import Finding
from vmm.engine.oracles import Oracles, stuck
from vmm.engine.schedule import Schedule
from vmm.errors import UsageError
from vmm.search.arrays import Flags, Matrix, Numbers, Rows, smallest_type, stacked
from vmm.search.budget import BYTES_UNKNOWN, default_bytes
from vmm.search.columns import Columns
from vmm.search.compiled import Compiled, Loops, is_installed
from vmm.search.forest import Forest
from vmm.search.judge import Judge
from vmm.search.liveness import Queues, awaited_locks, livelock, taken_locks
from vmm.search.moves import Moves
from vmm.search.parted import PartedStates
from vmm.search.paths import Paths
from vmm.search.plain import Onward, Plain
from vmm.search.reduction import Reduction
from vmm.search.result import Result, Stop, Verdict
from vmm.search.seen import SeenStates
from vmm.search.steps import Steps
from vmm.search.tables import Tables

if TYPE_CHECKING:
    from vmm.engine.world import World

CHUNK = 1 << 14
"""States expanded at once: enough to make numpy pay, few enough to stay in the cache."""

CHUNK_MIN = 1 << 8
"""States expanded at once although ``max_states`` may be passed by that."""

ENGINES = ("auto", "numpy", "numba")
"""What expands the states: auto is numpy, and numba, if it is there, once that is worth it."""

WORTH_COMPILING = 1 << 16
"""States of one depth from which on compiled loops gain more than loading them takes."""

Progress = Callable[[int, int], None]
"""Told from time to time: states so far, and how many of them are yet to be expanded."""


def search(
    world: World,
    *,
    monitors: bool = True,
    stop_at_first: bool = True,
    max_states: int | None = None,
    max_bytes: int | None = None,
    witnesses: bool = True,
    seed: int = 1,
    engine: str = "auto",
    jobs: int = 1,
    reduce: bool = False,
    shortest: bool = True,
    on_progress: Progress | None = None,
) -> Result:
    """Visit every reachable state of ``world``; with ``reduce``, one for many that are alike.

    ``max_states`` or ``max_bytes`` ends the search soon after so many; Ctrl-C ends it as well; all
    keep what was found. What a reduced search finds need not be shortest: so it is searched for
    again without reduction, unless ``shortest`` is off. ``engine`` is one of ``ENGINES`` and
    matters for the speed only; so do ``jobs``, the threads of numba's loops. Errors: whatever a
    task raises, CaptureRefused, ForeignAwait, Nondeterminism; UsageError if numba is asked for and
    not there.
    """
    if engine == "numba" and not is_installed():
        raise UsageError("numba is not installed: pip install 'vmm[fast]', or take engine numpy")
    run = _Search(world, monitors=monitors, witnesses=witnesses, seed=seed)
    run.engine, run.jobs = engine, jobs
    run.max_states, run.max_bytes = max_states, max_bytes or default_bytes()
    run.reduction = Reduction(world) if reduce else None
    try:
        run.learn_from_tasks()
        run.visit_all(stop_at_first=stop_at_first, on_progress=on_progress)
        if reduce and shortest and run.first is not None and run.stop is not Stop.INTERRUPT:
            run.visit_unreduced(stop_at_first=stop_at_first, on_progress=on_progress)
    finally:
        run.close()
    return run.result()


class _Search:
    """The states seen, how each was first reached, and what was found on the way."""

    max_states: int | None = None
    max_bytes = BYTES_UNKNOWN
    engine, jobs = "auto", 1

    def __init__(self, world: World, *, monitors: bool, witnesses: bool, seed: int) -> None:
        self.world = world
        self.witnesses = witnesses
        self.oracles = Oracles(world, counting=False) if monitors else None
        self.values = Values(world.registry)
        self.forest = Forest()
        self.columns = Columns(world, len(world.tasks), self.forest, seed)
        self.automata: list[Automaton] = []
        self.reduction: Reduction | None = None
        self.loops: Loops | None = None
        self.forget()

    def forget(self) -> None:
        """No state has been seen; what was learned of tasks and monitors stays."""
        self.stop: Stop | None = Stop.INTERRUPT
        self.seen: SeenStates | PartedStates = SeenStates()
        self.paths = Paths()
        self.steps = Steps()
        self.depth = self.transitions = self.deadlocks = 0
        self.held = 0
        """Bytes of the rows of this level and the next one."""
        self.deeper = 0
        """The number of the first state of the next level."""
        self.first: tuple[int, tuple[Finding, ...], Schedule] | None = None
        self.contents: dict[tuple[tuple[int, int], ...], None] = {}

    # --- the search ---

    def visit_all(self, *, stop_at_first: bool, on_progress: Progress | None) -> None:
        """Level by level, so that what is found first is what has the fewest steps."""
        frontier = self.begin()
        try:
            while len(frontier) and not (stop_at_first and self.first):
                frontier = self.visit_level(frontier, on_progress)
                if self.is_broken():
                    self.forget()
                    frontier = self.begin()
                    continue
                self.depth += bool(len(frontier))
                if on_progress is not None:
                    on_progress(self.paths.count, len(frontier))
                if self.stop in (Stop.STATES, Stop.MEMORY):
                    return
            if len(frontier):
                self.stop = Stop.FINDING
            else:
                if not self.first:
                    self.find_livelock()
                self.stop = None
        except KeyboardInterrupt:
            return

    def visit_unreduced(self, *, stop_at_first: bool, on_progress: Progress | None) -> None:
        """Look for a shortest way to a finding; what was found stands if the budget runs out."""
        found, self.reduction = self.first, None
        self.forget()
        self.visit_all(stop_at_first=stop_at_first, on_progress=on_progress)
        self.first = self.first or found

    def learn_from_tasks(self) -> None:
        """Make the tables, which know nothing yet but how the tasks begin."""
        for task in self.world.tasks:
            made = Automaton(task, self.values, self.world, witnesses=self.witnesses)
            self.automata.append(made)
        world, columns = self.world, self.columns
        self.tables = Tables(world, self.automata, self.values, columns)
        self.judge = Judge(world, self.oracles, self.values, columns, self.tables)
        self.moves = Moves(world, self.forest, columns, self.tables, self.judge)

    def begin(self) -> Matrix:
        """The frontier that holds the initial state; empty if that is a finding already."""
        if self.reduction is not None:
            self.reduction.start_over()
            self.columns.surprised = False
        self.moves.begin(self.reduction)
        self.expander: Plain | Compiled = Plain(self.world.tasks, self.moves, self.columns)
        start = self.start()
        findings = [
            finding
            for task, number in enumerate(start)
            for finding in self.judge.first_access(task, number, start)
        ]
        self.seen.add(np.zeros(1, np.uint64))
        self.paths.add(np.zeros(1, np.intp), np.zeros(1, np.intp))
        if findings:
            self.note(findings, [])
            return np.zeros((0, len(start)), np.uint8)
        return np.array([start], smallest_type(max(start, default=0)))

    def is_broken(self) -> bool:
        """Whether accesses were run through that should not have been."""
        return self.reduction is not None and (self.reduction.broken or self.columns.surprised)

    def start(self) -> list[int]:
        """The row of the initial state, as far as it is not zero."""
        return [automaton.start + 1 for automaton in self.automata]

    def visit_level(self, frontier: Matrix, on_progress: Progress | None) -> Matrix:
        """Expand all states of one depth; gives those of the next one."""
        self.take_over(len(frontier))
        base, done = self.paths.count - len(frontier), 0
        fresh: list[Matrix] = []
        self.held = frontier.nbytes
        self.deeper = self.paths.count
        while done < len(frontier):
            size = self.chunk_size()
            chunk = Rows(frontier[done : done + size], self.columns.width)
            fresh.append(self.expand(chunk, base + done))
            if self.is_broken():
                break
            self.held += fresh[-1].nbytes
            done += len(chunk)
            self.check_budgets()
            if self.stop in (Stop.STATES, Stop.MEMORY):
                break
            if on_progress is not None and done < len(frontier):
                on_progress(self.paths.count, self.paths.count - base - done)
        return stacked(fresh, self.columns.width, smallest_type(self.columns.largest))

    def take_over(self, states: int) -> None:
        """Let compiled loops expand the states from here on, if so many are worth it."""
        if isinstance(self.expander, Compiled) or self.engine == "numpy":
            return
        if self.engine == "numba" or (states >= WORTH_COMPILING and is_installed()):
            self.loops = self.loops or Loops(self.jobs)
            self.expander = Compiled(
                self.world.tasks,
                forest=self.forest,
                columns=self.columns,
                moves=self.moves,
                loops=self.loops,
            )
            self.seen = PartedStates(self.loops, self.seen.hashes, self.seen.count)

    def chunk_size(self) -> int:
        if self.max_states is None:
            return CHUNK
        return min(CHUNK, max(CHUNK_MIN, self.max_states - self.paths.count))

    def check_budgets(self) -> None:
        more = CHUNK * max(1, len(self.automata))
        if self.max_states is not None and self.paths.count > self.max_states:
            self.stop = Stop.STATES
        elif self.nbytes + self.seen.nbytes_to_grow(more) > self.max_bytes:
            self.stop = Stop.MEMORY

    @property
    def nbytes(self) -> int:
        """Memory that grows with the states."""
        parts = self.seen.nbytes + self.paths.nbytes + self.steps.nbytes
        return parts + self.forest.nbytes + 2 * self.held

    # --- one chunk ---

    def expand(self, rows: Rows, base: int) -> Matrix:
        """Take all ways on from some states, numbered from ``base``; gives the new states."""
        onward = self.expander.onward(rows, self.seen.hashes[base : base + len(rows)])
        self.end(rows, base, onward)
        return self.enter(rows, base, onward)

    def enter(self, rows: Rows, base: int, onward: Onward) -> Matrix:
        """Number the states behind the moves, and build the rows of the new ones."""
        self.transitions += len(onward.moves)
        if self.reduction is not None:
            self.transitions += int(self.moves.through[onward.moves].sum())
        if self.moves.found.any():
            bad = self.moves.found[onward.moves]
            if bad.any():
                self.note_bad(onward, bad, base)
                onward = onward.only(~bad)
        numbers, fresh = self.seen.add(onward.hashes)
        self.paths.add(base + onward.sources[fresh], onward.moves[fresh])
        self.keep(base, onward, numbers)
        return self.expander.behind(rows, onward, fresh)

    def keep(self, base: int, onward: Onward, numbers: Numbers) -> None:
        """Keep the steps that are not optional."""
        if self.moves.optional.any():
            binding = ~self.moves.optional[onward.moves]
            onward, numbers = onward.only(binding), numbers[binding]
        self.steps.add(base, onward.counts, numbers, onward.moves, self.deeper)

    def end(self, rows: Rows, base: int, onward: Onward) -> None:
        """Note quiet and deadlocked states."""
        at = np.flatnonzero(onward.counts == 0)
        if not at.size:
            return
        self.steps.add_ends(base + at)
        self.note_contents(rows.matrix[at])
        dead = at[onward.running[at]]
        self.deadlocks += len(dead)
        if dead.size and self.is_shorter(self.depth):
            row = rows.matrix[dead[0]].tolist()
            pending, view = self.pending(row), self.judge.view(row)
            found = self.oracles.stuck(pending, view) if self.oracles is not None else []
            found = found or [stuck(self.world, pending, view)]
            self.note(found, self.paths.to(base + int(dead[0])))

    def note_contents(self, ends: Matrix) -> None:
        cells = self.world.cells
        shown = [
            (column, variable)
            for variable, column in sorted(self.columns.of.items())
            if variable >= 0 and cells[variable].observable and column < ends.shape[1]
        ]
        columns = [column for column, _ in shown]
        kept, first = np.unique(ends[:, columns], axis=0, return_index=True)
        for row in kept[np.argsort(first)].tolist() if columns else [[]]:
            content = [
                (variable, number)
                for (_, variable), number in zip(shown, row, strict=True)
                if number
            ]
            self.contents[tuple(content)] = None

    # --- findings ---

    def pending(self, row: Sequence[int]) -> tuple[Any, ...]:
        """What each task waits to do; None if it has ended."""
        return tuple([self.tables.op(task, row[task]) for task in range(len(self.automata))])

    def is_shorter(self, steps: int) -> bool:
        return self.first is None or steps < self.first[0]

    def note_bad(self, onward: Onward, bad: Flags, base: int) -> None:
        """Keep the findings of the first of the bad moves."""
        if self.is_shorter(self.depth + 1):
            first = int(np.argmax(bad))
            move = int(onward.moves[first])
            path = [*self.paths.to(base + int(onward.sources[first])), move]
            self.note(self.moves.findings[move], path)

    def note(self, findings: Sequence[Finding], path: Sequence[int]) -> None:
        """Keep findings behind a path of moves, if none has fewer steps."""
        if self.is_shorter(len(path)):
            steps = self.unfold(path)
            self.first = len(steps), tuple(findings), self.schedule(steps)

    def unfold(self, path: Sequence[int]) -> list[int]:
        """The edges of a path of moves."""
        return [edge for move in path for edge in self.moves.edges[move]]

    def schedule(self, steps: Sequence[int], *, repeats_from: int | None = None) -> Schedule:
        taken = [self.tables.taken[edge] for edge in steps]
        branches = [step.edge.branch for step in taken]
        return Schedule(
            tasks=bytes([step.task for step in taken]),
            branches=tuple([branch for branch in branches if branch is not None]),
            repeats_from=repeats_from,
        )

    def find_livelock(self) -> None:
        """Note a livelock of a world that is clean otherwise: one that starts after fewest steps.

        An inescapable one comes before one that is fair only.
        """
        queues = Queues(self.awaited, self.taken)
        found = self.steps.lasso(self.world, self.tables, self.moves, self.paths.count, queues)
        if found is None:
            return
        stem = self.unfold(self.paths.to(found.start))
        steps = stem + self.unfold([way.edge for way in found.round])
        row = self.behind(stem)
        pending, ops = self.pending(row), self.tables.follow(row, steps[len(stem) :])
        finding = livelock(self.world, pending, len(stem), ops, is_lost=found.is_lost)
        schedule = self.schedule(steps, repeats_from=len(stem) if found.round else None)
        self.first = len(steps), (finding,), schedule

    def behind(self, steps: Sequence[int]) -> list[int]:
        """The local states that a path of edges from the start leads to."""
        row = self.start()
        self.tables.follow(row, steps)
        return row

    def awaited(self, state: int) -> dict[int, int]:
        row = self.behind(self.unfold(self.paths.to(state)))
        return awaited_locks(self.world, self.pending(row))

    def taken(self, move: int) -> tuple[int, ...]:
        steps = [self.tables.taken[edge] for edge in self.moves.edges[move]]
        return taken_locks([self.automata[step.task].ops[step.local] for step in steps])

    # --- result ---

    def result(self) -> Result:
        complete = self.stop is None
        _, findings, schedule = self.first or (0, (), None)
        clean = Verdict.CLEAN if complete else Verdict.INCOMPLETE
        states = self.paths.count
        compiled = isinstance(self.expander, Compiled)
        return Result(
            verdict=Verdict.VIOLATED if findings else clean,
            complete=complete,
            states=states,
            transitions=self.transitions,
            depth=self.depth,
            deadlocks=self.deadlocks,
            findings=findings,
            schedule=schedule,
            goals=self.goals(),
            terminal=tuple([self.named(content) for content in self.contents]),
            local_states=tuple([len(automaton.ops) for automaton in self.automata]),
            stop=self.stop,
            collision_bound=states * states / 2.0**65,
            engine="numba" if self.loops is not None and compiled else "numpy",
            jobs=self.loops.jobs if self.loops is not None and compiled else 1,
            startup_seconds=0.0 if self.loops is None else self.loops.seconds,
            reduced=self.reduction is not None,
        )

    def goals(self) -> dict[str, bool]:
        """An edge is learned when it is taken, so what was learned says which were reached."""
        reached = {
            event.name
            for taken in self.tables.taken
            for event in taken.edge.events
            if isinstance(event, Goal)
        }
        return {goal: goal in reached for goal in self.world.goals}

    def named(self, content: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Contents of observable cells by name; sparse ones that are initial are left out."""
        changed = dict(content)
        shown: dict[str, Any] = {}
        for cell in self.world.cells:
            number = changed.get(cell.index, 0)
            if cell.observable and (cell.array is None or number):
                value = self.tables.initial(cell.index)
                if number:
                    value = self.columns.content(self.columns.of[cell.index], number)  # type: ignore[assignment]
                shown[cell.name] = self.values.value(value)
        return shown

    def close(self) -> None:
        if self.loops is not None:
            self.loops.close()
        for automaton in self.automata:
            automaton.close()
