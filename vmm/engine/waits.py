"""Who waits for what in a state that nothing leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vmm.engine.ops import Op
from vmm.engine.task import TaskKind
from vmm.engine.tso import bare

if TYPE_CHECKING:
    from vmm.engine.monitor import View
    from vmm.engine.world import World


class Waits(NamedTuple):
    """In one phrase, and the cells that it names."""

    message: str
    cells: tuple[str, ...]


def who_waits(world: World, pending: Sequence[Op | None], view: View) -> Waits:
    """Each task that must act, the op it waits at, and what keeps it: a lock's holder or values.

    A cycle of tasks that wait for each other is named.
    """
    phrases, cells, keepers = [], list[str](), dict[int, tuple[int, ...]]()
    for task, op in zip(world.tasks, pending, strict=True):
        if op is None or task.kind is TaskKind.OPTIONAL:
            continue
        cells += [cell.name for cell in op.cells]
        inner = bare(op)
        holders = () if inner.cell is None else inner.holders(view[inner.cell])
        if holders:
            keepers[task.index] = holders
            names = [_named(world, pending, holder, task.index) for holder in holders]
            phrases.append(f"{task.name} {waiting(op)}, {inner.held} {' and '.join(names)}")
        else:
            held = ", ".join([f"{cell.name} is {cell.format(view[cell])}" for cell in op.cells])
            phrases.append(f"{task.name} {waiting(op)} ({held})")
    cycle = [world.tasks[number].name for number in _cycle(keepers)]
    if len(cycle) > 1:
        phrases.append(f"a cycle: {' -> '.join([*cycle, cycle[0]])}")
    return Waits("; ".join(phrases), tuple(dict.fromkeys(cells)))


def waiting(op: Op) -> str:
    """``waits for ipi1``, ``waits to acquire mmu_lock``."""
    text = op.describe()
    return f"waits{text.removeprefix('wait')}" if text.startswith("wait ") else f"waits to {text}"


def _named(world: World, pending: Sequence[Op | None], holder: int, waiter: int) -> str:
    if holder == waiter:
        return "itself"
    ended = "" if pending[holder] is not None else ", which has ended"
    return f"{world.tasks[holder].name}{ended}"


def _cycle(keepers: Mapping[int, tuple[int, ...]]) -> list[int]:
    """The tasks of the first cycle, each waiting for the next; empty if there is none."""

    def back_to(start: int, path: list[int]) -> list[int]:
        for following in keepers.get(path[-1], ()):
            if following == start:
                return path
            found = [] if following in path else back_to(start, [*path, following])
            if found:
                return found
        return []

    return next((found for start in keepers if (found := back_to(start, [start]))), [])
