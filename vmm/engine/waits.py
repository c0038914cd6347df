"""Who waits for what in a state that nothing leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from vmm.engine.ops import Acquire, Op
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

    A cycle of tasks that wait for each other's locks is named.
    """
    phrases, cells, holders = [], list[str](), dict[int, int]()
    for task, op in zip(world.tasks, pending, strict=True):
        if op is None or task.kind is TaskKind.OPTIONAL:
            continue
        cells += [cell.name for cell in op.cells]
        inner = bare(op)
        if isinstance(inner, Acquire) and view[inner.cell]:
            holder = holders[task.index] = view[inner.cell] - 1
            ended = "" if pending[holder] is not None else ", which has ended"
            by = "itself" if holder == task.index else f"{world.tasks[holder].name}{ended}"
            phrases.append(f"{task.name} {waiting(op)}, held by {by}")
        else:
            held = ", ".join([f"{cell.name} is {cell.format(view[cell])}" for cell in op.cells])
            phrases.append(f"{task.name} {waiting(op)} ({held})")
    cycle = [world.tasks[number].name for number in _cycle(holders)]
    if len(cycle) > 1:
        phrases.append(f"a cycle: {' -> '.join([*cycle, cycle[0]])}")
    return Waits("; ".join(phrases), tuple(dict.fromkeys(cells)))


def waiting(op: Op) -> str:
    """``waits for ipi1``, ``waits to acquire mmu_lock``."""
    text = op.describe()
    return f"waits{text.removeprefix('wait')}" if text.startswith("wait ") else f"waits to {text}"


def _cycle(holders: dict[int, int]) -> list[int]:
    """The tasks of the first cycle, each waiting for the next; empty if there is none."""
    for start in holders:
        path = [start]
        while (following := holders.get(path[-1])) is not None:
            if following == start:
                return path
            if following in path:
                break
            path.append(following)
    return []
