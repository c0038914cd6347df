"""Locks are taken in their order.

    vCPU 0                                 host thread
    acquire mmu_lock
                                           acquire slots_lock
                                           wants mmu_lock: waits
    wants slots_lock: waits
    each waits for the other

A run in which nobody else comes in between goes well, so the order itself is judged: each lock says
which ones it may be taken inside of (``World.lock``). Two locks that say nothing of each other are
never held together.
"""

from __future__ import annotations

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

    def __init__(self, locks: tuple[Lock, ...]) -> None:
        self.locks = locks

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
                for held in self.locks
                if _out_of_order(held, op.cell) and seen_by(task, held, view) == task.index + 1
            ]
        )


def _out_of_order(held: Lock, wanted: Cell[int]) -> bool:
    assert isinstance(wanted, Lock)
    return held is not wanted and held not in wanted.inside and wanted not in held.outside


def _build(world: World, vm: Vm | None) -> LockOrder | None:
    del vm
    locks = tuple([cell for cell in world.cells if isinstance(cell, Lock)])
    return LockOrder(locks) if len(locks) > 1 else None


SPEC = Oracle(
    title="locks are taken in their order",
    source="Documentation/virt/kvm/locking.rst (acquisition orders); Havender (1968)",
    rule="a lock is taken only inside of those that come before it in the lock order",
    build=_build,
)
