"""Grace periods: a writer waits until nobody is left who may use what it has replaced (SRCU).

    reader                                 writer
    read lock: counted under index 0
    reads the pointer: old
                                           publishes the new one
                                           flips: who comes from here on is counted under index 1
    uses what old points to
                                           waits for the readers under index 0
    read unlock 0
                                           nobody can have old any more: frees it

A reader gives back the index that it was given, so sections of one task nest. A flip waits until
the other index has no readers, which are those of a grace period before: so several writers may
synchronize at once.

A departure: the read lock is one action. The kernel's reads the index and counts under it in two,
which costs its writers a second look, and readers nothing.

Source: McKenney, "Sleepable RCU" (LWN, 2006); Linux kernel/rcu/srcu.c, Documentation/RCU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from vmm.engine.cells import Cell
from vmm.engine.ops import Op, trap
from vmm.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from vmm.engine.ops import Trap
    from vmm.engine.world import World

Inside = tuple[int, ...]
"""Tasks in a read section, by number, each as often as it is inside."""
NOBODY: tuple[Inside, Inside] = ((), ())
"""Nobody under either index."""


class Readers(NamedTuple):
    """``current``: the index that new readers are counted under. ``inside``: who is, by index."""

    current: int = 0
    inside: tuple[Inside, Inside] = NOBODY

    def with_inside(self, index: int, tasks: Inside) -> Readers:
        """The same with other readers under one index."""
        both = (tasks, self.inside[1]) if index == 0 else (self.inside[0], tasks)
        return self._replace(inside=both)


class ReadLock(Op, eq=False, gc=False):
    """Enter a read section; the result is the index to give back."""

    kind: ClassVar[str] = "read lock"
    writes: ClassVar[bool] = True
    locked: ClassVar[bool] = True

    cell: Srcu

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        readers: Readers = memory[self.cell.index]
        at = readers.current
        inside = tuple(sorted((*readers.inside[at], task)))
        memory[self.cell.index] = readers.with_inside(at, inside)
        return at, (task, at)


class ReadUnlock(Op, eq=False, gc=False):
    """Leave a read section."""

    kind: ClassVar[str] = "read unlock"
    writes: ClassVar[bool] = True
    locked: ClassVar[bool] = True

    cell: Srcu
    under: int

    def operands(self) -> tuple[Hashable, ...]:
        return (self.under,)

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        readers: Readers = memory[self.cell.index]
        inside = list(readers.inside[self.under])
        if task not in inside:
            raise UsageError(
                f"task {task} leaves a read section of {self.cell.name} under index {self.under}, "
                "where it is not; a task gives back the index that its read lock gave"
            )
        inside.remove(task)
        memory[self.cell.index] = readers.with_inside(self.under, tuple(inside))
        return None, (task, self.under)


class Flip(Op, eq=False, gc=False):
    """Begin a grace period; the result is the index whose readers it waits for."""

    kind: ClassVar[str] = "flip"
    may_block: ClassVar[bool] = True
    writes: ClassVar[bool] = True
    locked: ClassVar[bool] = True
    held: ClassVar[str] = "still read by"

    cell: Srcu

    def holders(self, value: Any) -> tuple[int, ...]:
        readers: Readers = value
        return readers.inside[1 - readers.current]

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return not self.holders(memory[self.cell.index])

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del task
        readers: Readers = memory[self.cell.index]
        memory[self.cell.index] = readers._replace(current=1 - readers.current)
        return readers.current, readers.current


class Drained(Op, eq=False, gc=False):
    """Disabled while anybody reads under an index."""

    kind: ClassVar[str] = "wait for readers"
    may_block: ClassVar[bool] = True
    locked: ClassVar[bool] = True
    held: ClassVar[str] = "still read by"

    cell: Srcu
    under: int

    def operands(self) -> tuple[Hashable, ...]:
        return (self.under,)

    def holders(self, value: Any) -> tuple[int, ...]:
        readers: Readers = value
        return readers.inside[self.under]

    def enabled(self, memory: Any, task: int) -> bool:
        del task
        return not self.holders(memory[self.cell.index])

    def run(self, memory: Any, task: int) -> tuple[Any, Any]:
        del memory, task
        return None, self.under

    def describe(self) -> str:
        return f"wait for the readers of {self.cell.name}"


class Srcu(Cell[Readers]):
    """A domain of read sections and grace periods."""

    __slots__ = ()

    def __init__(self, name: str, index: int) -> None:
        super().__init__(name, Readers(), index, marked=True, observable=False, format=_format)

    def read_lock(self) -> Trap[int]:
        """Enter a read section, without waiting; gives the index for ``read_unlock``."""
        return trap(ReadLock(self))

    def read_unlock(self, under: int) -> Trap[None]:
        """Leave a read section. Errors: the task is not in one under that index."""
        return trap(ReadUnlock(self, under))

    async def synchronize(self) -> None:
        """Wait until every read section that had begun has ended. Ops: two, either may block."""
        under = await trap(Flip(self))
        await trap(Drained(self, under))


def make_srcu(world: World, name: str) -> Srcu:
    """A domain of its own in a world."""
    return world.add_cell(Srcu(name, len(world.cells)))


def _format(readers: Readers) -> str:
    inside = [
        f"under {index} {' '.join(f'task {task}' for task in tasks)}"
        for index, tasks in enumerate(readers.inside)
        if tasks
    ]
    return ", ".join([f"index {readers.current}", *inside])
