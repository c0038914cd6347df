"""Locks are taken in their order.

    vCPU 0                                 host thread
    acquire mmu_lock
                                           acquire slots_lock
                                           wants mmu_lock: waits
    wants slots_lock: waits
    each waits for the other

A run in which nobody else comes in between goes well, so the order itself is judged: a lock may
say which ones it is taken inside of, or outside of (``World.lock``). What follows from that counts
too. Of two locks that have no order only a deadlock is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vmm.engine.cells import Cell, Lock
from vmm.engine.monitor import Finding, Monitor, View
from vmm.engine.ops import Acquire, Op
from vmm.engine.task import Task
from vmm.engine.tso import seen_by
from vmm.engine.world import World
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm


class LockOrder(Monitor):
    """Judges each acquire when it is published: what a task holds is its own affair."""

    name = "lock/order"
    sees_pending = True

    def __init__(self, before: Mapping[Lock, Sequence[Lock]]) -> None:
        self.after = {lock: [b for b in before if lock in before[b]] for lock in before}

    def sees_access(self, cell: Cell[Any]) -> bool:
        return isinstance(cell, Lock)

    def on_pending(self, task: Task, op: Op, view: View) -> tuple[Finding, ...]:
        if not isinstance(op, Acquire):
            return ()
        return tuple(
            [
                SPEC.finding(
                    "lock/order",
                    f"{task.name} is about to acquire {op.cell.name} while it holds {held.name}",
                    op.cell.name,
                    held.name,
                )
                for held in self.after[op.cell]
                if task.index in held.holders(seen_by(task, held, view))
            ]
        )


def _before(locks: Sequence[Lock]) -> dict[Lock, list[Lock]]:
    """All that come before each lock, directly or not."""
    before = {
        lock: [other for other in locks if other in lock.inside or lock in other.outside]
        for lock in locks
    }
    for earlier in before.values():
        for lock in earlier:  # grows meanwhile
            earlier += [other for other in before[lock] if other not in earlier]
    return before


def _build(world: World, vm: Vm | None) -> LockOrder | None:
    del vm
    before = _before([cell for cell in world.cells if isinstance(cell, Lock)])
    return LockOrder(before) if any(before.values()) else None


SPEC = Oracle(
    title="locks are taken in their order",
    source="Documentation/virt/kvm/locking.rst (acquisition orders); Havender (1968)",
    rule="a lock is taken only inside of those that come before it in the lock order",
    build=_build,
)
