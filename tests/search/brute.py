"""Brute force: every schedule prefix is run again from the start, on real coroutines.

Shares nothing with the searches but the ops themselves. It never looks into a coroutine: a task's
state is the list of all results that it was ever sent, so a task that loops for ever has no end
here. For tiny worlds only.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vmm.engine.events import Goal, resolve
from vmm.engine.ops import Choose, Op
from vmm.engine.task import TaskKind
from vmm.engine.world import World

Choice = tuple[int, int | None]
Prefix = tuple[Choice, ...]


@dataclass
class Found:
    """All that can come of a world. Contents are sorted (cell, value) texts."""

    terminal: set[tuple[str, ...]] = field(default_factory=set)
    contents: set[tuple[str, ...]] = field(default_factory=set)
    deadlocks: set[tuple[str, ...]] = field(default_factory=set)
    first_deadlock: int | None = None
    goals: set[str] = field(default_factory=set)
    prefixes: int = 0


class Memory(defaultdict[int, Any]):
    """Cell values by number; cells that nobody wrote hold their initial value."""

    def __init__(self, world: World) -> None:
        super().__init__(None, {cell.index: cell.initial for cell in world.cells})
        self.world = world

    def __missing__(self, cell: int) -> Any:
        return self.world.cells[cell].initial


class Execution:
    """One prefix, run from the start."""

    def __init__(self, world: World, prefix: Prefix) -> None:
        self.world = world
        self.memory = Memory(world)
        self.histories: list[list[str]] = [[] for _ in world.tasks]
        self.goals: list[str] = []
        self.programs = [task.start() for task in world.tasks]
        self.pending: list[Op | None] = [self.send(n, None) for n in range(len(world.tasks))]
        for task, branch in prefix:
            self.step(task, branch)

    def send(self, task: int, result: object) -> Op | None:
        try:
            return self.programs[task].send(result)
        except StopIteration:
            return None

    def step(self, task: int, branch: int | None) -> None:
        op = self.pending[task]
        assert op is not None
        result = branch if isinstance(op, Choose) else op.run(self.memory, task)[0]
        self.goals += [e.name for e in resolve(op.event, result) if isinstance(e, Goal)]
        self.histories[task].append(repr(result))
        self.pending[task] = self.send(task, result)

    def choices(self) -> Iterator[Choice]:
        for task, op in enumerate(self.pending):
            if op is not None and op.enabled(self.memory, task):
                ways = range(op.branches) if isinstance(op, Choose) else (None,)
                yield from ((task, way) for way in ways)

    def content(self) -> tuple[str, ...]:
        cells = [c for c in self.world.cells if c.observable]
        shown = [c for c in cells if c.array is None or self.memory[c.index] != c.initial]
        return tuple(sorted(f"{c.name}={self.memory[c.index]!r}" for c in shown))

    def key(self) -> object:
        memory = {
            c.name: repr(v) for c in self.world.cells if (v := self.memory[c.index]) != c.initial
        }
        return tuple(sorted(memory.items())), tuple(map(tuple, self.histories))

    def kind_of(self, task: int) -> TaskKind:
        return self.world.tasks[task].kind

    def ends(self) -> str | None:
        """`quiet` or `deadlock` where a run ends."""
        kinds = [task.kind for task in self.world.tasks]
        able = {self.kind_of(task) for task, _ in self.choices()}
        waiting = [k for k, op in zip(kinds, self.pending, strict=True) if op is not None]
        if TaskKind.FOREGROUND not in waiting:
            return None if TaskKind.EVENTUAL in able else "quiet"
        return None if able - {TaskKind.OPTIONAL} else "deadlock"

    def close(self) -> None:
        for program in self.programs:
            while program.cr_frame is not None:  # type: ignore[attr-defined]
                try:
                    program.close()
                except RuntimeError:
                    continue


def enumerate_all(
    world: World, limit: int, execute: Callable[[World, Prefix], Execution] = Execution
) -> Found | None:
    """Every prefix of every run, up to equal memory and histories; None beyond ``limit``."""
    found, seen, level = Found(), set(), [Prefix()]
    while level:
        longer: list[Prefix] = []
        for prefix in level:
            execution = execute(world, prefix)
            found.goals.update(execution.goals)
            if execution.key() not in seen:
                seen.add(execution.key())
                longer += [(*prefix, choice) for choice in _visit(execution, prefix, found)]
            execution.close()
            found.prefixes += 1
            if found.prefixes > limit:
                return None
        level = longer
    return found


def _visit(execution: Execution, prefix: Prefix, found: Found) -> list[Choice]:
    content = execution.content()
    found.contents.add(content)
    end = execution.ends()
    if end is None:
        return list(execution.choices())
    found.terminal.add(content)
    if end == "deadlock":
        found.deadlocks.add(content)
        if found.first_deadlock is None:
            found.first_deadlock = len(prefix)
    return []
