"""Partial-order reduction: inside a critical section a task runs on while nobody else could tell.

    task 0                                 task 1
    acquire lock
    read   guarded cell                    may come in before, between or after: it cannot
    write  guarded cell                    look at the cell, so that all of it is one state
    release lock

An access may be run through if it carries no event, cannot block and has one way to come out, and
each cell of it is fully guarded, or write guarded and only read, by a lock that the task holds. A
readers-writer lock that the task shares is enough for a read if nobody may store to the cell while
the lock is shared, else if the task has the further locks that such stores take.
Nothing that another task may do before the release depends on such an access. So a state in which
one is pending is not kept: the task steps on at once. All else is a choice point: acquire, release,
waits, choices, marks, steps with events, accesses to other cells.

That rests on facts that only the search itself can show, so each is checked in every state that it
visits (Stoller and Cohen): that nobody touches a guarded cell without its lock, that no monitor
looks at a guarded cell while another task holds the lock, and that locks are only acquired and
released. A cell, array or lock of which that turns out to be false is *exposed*: accesses to it
are choice points, and if some were run through before, the search starts over.

Monitors may also judge an access when it is published. If they look at anything that others may
change, the step that published it is a choice point. They may also look at who else has an access
to a cell pending. Then each access to that cell, and the step that publishes it, is a choice point.

Only foreground and eventual tasks run on: the world may come to rest while a daemon or an optional
task is in the middle of something. And as these act only while others can, an access after which
its task may have to wait, or has ended, is a choice point in a world that has some of them.

A task that keeps coming by the same local state stops there, so no cycle is without a choice point.

Source: Stoller and Cohen, Optimistic synchronization-based state-space reduction (2006); Holzmann
and Peled, An improvement in formal verification (1994), for the cycles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmm.engine.cells import Guard, Lock
from vmm.engine.ops import Acquire, Atomically, Cas, Observe, Read, Release, Update, Write
from vmm.engine.rwlock import may_touch
from vmm.engine.task import TaskKind

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.monitor import View
    from vmm.engine.ops import Op
    from vmm.engine.world import World
    from vmm.search.judge import RecordingView

QUIET_OPS = (Read, Write, Cas, Update, Atomically, Observe)
"""Ops without a word of their own; each class is meant exactly, since subclasses may block."""

Exposed = object
"""A cell, an array or a lock."""


class Reduction:
    """Says which pending accesses are run through. ``broken``: one was that should not have been.

    A ``Judge`` asks it, so once for each input that differs. ``exposed`` only grows, and outlives
    the search that begins over.
    """

    def __init__(self, world: World) -> None:
        self.exposed: dict[Exposed, None] = {}
        self.broken = False
        self._world = world
        self._relied: dict[Exposed, None] = {}
        self._shown: dict[Cell[Any], None] = {}
        self._hidden: dict[Cell[Any], None] = {}

    def start_over(self) -> None:
        """Forget what was relied on: the search begins again."""
        self.broken = False
        self._relied.clear()
        self._hidden.clear()

    def seen_by_monitors(self, view: RecordingView, task: int) -> None:
        """Monitors looked at all this when ``task`` made a step, or published an access."""
        self._shown.update(view.shown)
        self.broken |= any(cell in self._hidden for cell in view.shown)
        for number in list(view.cells):
            cell = self._world.cells[number]
            # No write-guarded cell is written on the way, so that nobody can tell there.
            if cell.guard is not Guard.FULL or cell.lock is None or self._is_exposed(cell):
                continue
            if self._others_hold(cell, task, view):
                self._expose(cell)

    def _others_hold(self, cell: Cell[Any], task: int, view: RecordingView) -> bool:
        """Whether another task may be in the middle of accesses to a guarded cell."""
        assert cell.lock is not None
        value = view[cell.lock]
        if value >= 0 or cell.shared_with is None:
            return bool(value > 0 and value != task + 1)
        return any(view[lock] not in (0, task + 1) for lock in cell.shared_with)

    def is_steady(self, view: RecordingView, task: int, op: Op) -> bool:
        """Whether all that monitors looked at when ``task`` published ``op`` is its own.

        Neither may they look for accesses such as this one when others publish theirs.
        """
        if view.arrays or view.met or self._is_shown(op):
            return False
        for number in list(view.cells):
            cell = self._world.cells[number]
            lock = cell if isinstance(cell, Lock) else cell.lock
            if lock is None or (lock is not cell and cell.guard is not Guard.FULL):
                return False
            if view[lock] != task + 1:
                return False
        self._hidden.update(dict.fromkeys(op.cells))
        return True

    def runs_on(self, task: int, op: Op, view: View) -> bool:
        """Whether ``task`` may go through the access that it has pending."""
        if not isinstance(op, Acquire | Release):
            for cell in op.written:
                if isinstance(cell, Lock):
                    self._expose(cell)
        held = [self._holds(task, op, cell, view) for cell in op.cells]
        quiet = type(op) in QUIET_OPS and op.event is None and all(held)
        kind = self._world.tasks[task].kind
        if not quiet or kind not in (TaskKind.FOREGROUND, TaskKind.EVENTUAL):
            return False
        if any(cell.guard is not Guard.FULL for cell in op.written):
            return False
        if self._is_shown(op) or any(self._is_exposed(cell) for cell in op.cells):
            return False
        for cell in op.cells:
            self._relied.update(dict.fromkeys(_parts(cell)))
        self._hidden.update(dict.fromkeys(op.cells))
        return True

    def _holds(self, task: int, op: Op, cell: Cell[Any], view: View) -> bool:
        """Whether the cell is the task's own meanwhile; one whose guard is broken is exposed."""
        if cell.lock is None:
            return False
        # What may be stored to under a shared lock alone is nobody's.
        alone = cell.shared_with != () or view[cell.lock] == task + 1
        stores = cell in op.written
        holds: bool = alone and may_touch(cell, task, view.__getitem__, stores=stores)
        if not holds and (cell.guard is Guard.FULL or cell in op.written):
            self._expose(cell)
        return holds

    def _is_shown(self, op: Op) -> bool:
        return any(cell in self._shown for cell in op.cells)

    def _is_exposed(self, cell: Cell[Any]) -> bool:
        return any(part in self.exposed for part in _parts(cell))

    def _expose(self, part: Exposed) -> None:
        self.exposed[part] = None
        self.broken |= part in self._relied


def _parts(cell: Cell[Any]) -> tuple[Exposed, ...]:
    if cell.lock is None:
        return (cell,)
    return (cell, cell.lock, *(cell.shared_with or ()))
