"""Readers-writer locks: held by one task alone, or shared by several.

    task 0                                 task 1                     task 2
    acquire shared                         acquire shared             acquire: waits
    reads what the lock guards             reads it, too
    release shared
                                           release shared: free
                                                                      has it alone

Who shares a lock may read what it guards, and store nothing: but to cells that say so
(``Cell.shared_with``), under further locks or under none. As with other locks it is the judgement
of endless runs that knows of a queue, in which readers and writers stand alike (``qrwlock``).

Source: Linux include/linux/rwlock.h, kernel/locking/qrwlock.c.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from vmm.engine.cells import Lock
from vmm.engine.events import resolve
from vmm.engine.ops import Acquire, Release, trap
from vmm.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm.engine.cells import Cell
    from vmm.engine.events import Event, EventSpec
    from vmm.engine.ops import Trap
    from vmm.engine.world import World


class AcquireShared(Acquire, eq=False, gc=False):
    """Take a lock together with others; disabled while one task has it alone."""

    kind: ClassVar[str] = "acquire shared"

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return bool(memory[self.cell.index] <= 0)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        readers = -memory[self.cell.index]
        if readers >> task & 1:
            raise UsageError(f"task {task} shares {self.cell.name} already: a writer may wait")
        memory[self.cell.index] = -(readers | 1 << task)
        return None, task


class ReleaseShared(Release, eq=False, gc=False):
    """Give a shared lock back; the result says whether nobody has it any more."""

    kind: ClassVar[str] = "release shared"
    locked: ClassVar[bool] = True

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        value = memory[self.cell.index]
        if not shares(value, task):
            raise UsageError(
                f"task {task} gives back its share of {self.cell.name}, which is "
                f"{self.cell.format(value)}; a task may give back only what it took"
            )
        memory[self.cell.index] = value + (1 << task)
        return not memory[self.cell.index], task


class RwLock(Lock):
    """A lock that may be shared: below 0 each bit of its magnitude is a task that shares it.

    Its ``release_event`` takes effect when nobody has it any more.
    """

    __slots__ = ("acquire_shared_op", "release_shared_op")

    def __init__(
        self,
        name: str,
        index: int,
        *,
        release_event: EventSpec = None,
        inside: tuple[Lock, ...] = (),
        outside: tuple[Lock, ...] = (),
    ) -> None:
        super().__init__(name, index, release_event=release_event, inside=inside, outside=outside)
        self.acquire_shared_op = AcquireShared(self)
        self.release_shared_op = ReleaseShared(self, partial(_when_free, release_event))

    def holders(self, value: int) -> tuple[int, ...]:
        """The tasks that have the lock: one alone, or all that share it."""
        if value >= 0:
            return super().holders(value)
        return tuple([task for task in range((-value).bit_length()) if -value >> task & 1])

    def acquire_shared(self) -> Trap[None]:
        """Take the lock, together with others."""
        return trap(self.acquire_shared_op)

    def release_shared(self) -> Trap[bool]:
        """Give the lock back. Errors: the task does not share it."""
        return trap(self.release_shared_op)


def make_rwlock(
    world: World,
    name: str,
    *,
    release_event: EventSpec = None,
    inside: tuple[Lock, ...] = (),
    outside: tuple[Lock, ...] = (),
) -> RwLock:
    """A lock of its own in a world, with its place in the lock order."""
    return world.add_cell(
        RwLock(name, len(world.cells), release_event=release_event, inside=inside, outside=outside)
    )


def shares(value: int, task: int) -> bool:
    """Whether a task shares a lock that has this value."""
    return value < 0 and bool(-value >> task & 1)


def may_touch(
    cell: Cell[Any], task: int, value_of: Callable[[Cell[Any]], Any], *, stores: bool
) -> bool:
    """Whether a task has what a guarded cell asks for. ``value_of``: a lock's value, for the task.

    Who shares the lock reads what nobody may store to meanwhile; what may be stored to belongs to
    whoever has all further locks that the cell names.
    """
    assert cell.lock is not None
    value = value_of(cell.lock)
    if value == task + 1:
        return True
    if not shares(value, task):
        return False
    if cell.shared_with is None:
        return not stores
    return all(value_of(lock) == task + 1 for lock in cell.shared_with)


def _when_free(release_event: EventSpec, free: bool) -> tuple[Event, ...]:
    return resolve(release_event, None) if free else ()
