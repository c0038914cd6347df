"""Brute force for x86-TSO: the machine of Sewell et al., written down a second time.

Each foreground task and daemon has a queue of stores; others are hardware and act on memory. What a
task sees is memory with its own queue applied. A locked instruction and a fence need an empty
queue. A queue moves on by itself, a store at a time. Shares nothing with the store buffers of the
engine but the ops that programs publish.
"""

from collections.abc import Iterator
from typing import Any

from tests.search.brute import Choice, Execution, Memory, Prefix
from vmm.engine.events import Goal, resolve
from vmm.engine.ops import (
    Acquire,
    Atomically,
    Cas,
    Choose,
    Fence,
    Op,
    Read,
    Release,
    Update,
    WaitUntil,
    Write,
)
from vmm.engine.task import TaskKind
from vmm.engine.world import World

ENTRIES = 4
PROGRAMS = (TaskKind.FOREGROUND, TaskKind.DAEMON)
LOCKED = (Acquire, Atomically, Cas, Fence, Update)


class TsoExecution(Execution):
    """One prefix on the x86-TSO machine. Task -1 - n in a choice is the queue of task n."""

    def __init__(self, world: World, prefix: Prefix) -> None:
        self.queues: list[list[tuple[int, Any]]] = [[] for _ in world.tasks]
        super().__init__(world, prefix)

    def step(self, task: int, branch: int | None) -> None:
        if task < 0:
            cell, value = self.queues[-1 - task].pop(0)
            self.memory[cell] = value
            return
        op = self.pending[task]
        assert op is not None
        if not self.is_program(task) or isinstance(op, Choose) or self.is_locked(op):
            super().step(task, branch)
            return
        view = self.seen_by(task)
        result, _ = op.run(view, task)
        if op.writes:
            assert isinstance(op, Write | Release)
            self.queues[task].append((op.cell.index, view[op.cell.index]))
        else:
            assert isinstance(op, Read | WaitUntil) or not op.cells
        self.goals += [e.name for e in resolve(op.event, result) if isinstance(e, Goal)]
        self.histories[task].append(repr(result))
        self.pending[task] = self.send(task, result)

    def is_program(self, task: int) -> bool:
        return self.world.tasks[task].kind in PROGRAMS

    def is_locked(self, op: Op) -> bool:
        return isinstance(op, LOCKED) or (isinstance(op, Write) and op.serialising)

    def seen_by(self, task: int) -> Memory:
        view = Memory(self.world)
        view.update(self.memory)
        view.update(self.queues[task])
        return view

    def is_enabled(self, task: int, op: Op) -> bool:
        if not self.is_program(task):
            return op.enabled(self.memory, task)
        queue = self.queues[task]
        if self.is_locked(op):
            return not queue and op.enabled(self.memory, task)
        return (len(queue) < ENTRIES or not op.writes) and op.enabled(self.seen_by(task), task)

    def choices(self) -> Iterator[Choice]:
        for task, op in enumerate(self.pending):
            if op is not None and self.is_enabled(task, op):
                ways = range(op.branches) if isinstance(op, Choose) else (None,)
                yield from ((task, way) for way in ways)
        yield from ((-1 - task, None) for task, queue in enumerate(self.queues) if queue)

    def kind_of(self, task: int) -> TaskKind:
        return TaskKind.EVENTUAL if task < 0 else super().kind_of(task)

    def key(self) -> object:
        return super().key(), tuple(map(tuple, self.queues))
