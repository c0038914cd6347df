"""Every access to a guarded cell is made by the holder of its lock."""

from __future__ import annotations

from functools import partial
from typing import Any

from vmm.engine.cells import Cell, Guard
from vmm.engine.monitor import Finding, Monitor, View
from vmm.engine.ops import Cas, Op
from vmm.engine.rwlock import may_touch
from vmm.engine.task import Task
from vmm.engine.tso import Drain, bare, seen_by
from vmm.engine.world import World
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm


class LockGuard(Monitor):
    """Judges each access when it is published: only the task itself can take or drop its lock."""

    name = "lock/unguarded"
    sees_pending = True

    def sees_access(self, cell: Cell[Any]) -> bool:
        return cell.lock is not None

    def on_pending(self, task: Task, op: Op, view: View) -> tuple[Finding, ...]:
        found: list[Finding] = []
        if op.__class__ is Drain:
            return ()  # the store was judged when its program issued it
        for cell in op.cells:
            lock = cell.lock
            if lock is None:
                continue
            if task.through is None:  # memory says who has the lock
                value = view[lock]
                if value == task.index + 1:
                    continue
                if cell.guard is not Guard.FULL and not op.writes and value >= 0:
                    continue
            swaps = cell.guard is Guard.EXCHANGE and isinstance(bare(op), Cas)
            stores = cell in op.written and not swaps
            if may_touch(cell, task.index, partial(seen_by, task, view=view), stores=stores):
                continue
            if cell.guard is Guard.FULL or stores:
                found.append(
                    SPEC.finding(
                        "lock/unguarded",
                        f"{task.name} is about to {op.describe()} without {lock.name}, "
                        f"which is {lock.format(seen_by(task, lock, view))}",
                        cell.name,
                        lock.name,
                    )
                )
        return tuple(found)


def _build(world: World, vm: Vm | None) -> LockGuard | None:
    del vm
    return LockGuard() if any(cell.lock is not None for cell in world.cells) else None


SPEC = Oracle(
    title="guarded cells are touched only by who has their lock",
    source="Documentation/virt/kvm/locking.rst; Savage et al., Eraser (1997)",
    rule=(
        "a guarded cell is accessed, and a write-guarded one stored to, only under its lock, but "
        "that an spte may be swapped without it where a feature says so; where the lock is shared, "
        "a cell is stored to only with the further locks that it names"
    ),
    build=_build,
)
