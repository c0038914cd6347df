"""Deadlock: not quiet, and nothing that must act can."""

from __future__ import annotations

from vmm.engine.monitor import Finding, Monitor
from vmm.engine.ops import Op
from vmm.engine.world import World
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm


class Deadlock(Monitor):
    """Says who waits for what."""

    name = "deadlock/stuck"
    sees_stuck = True

    def on_stuck(self, world: World, pending: tuple[Op | None, ...]) -> tuple[Finding, ...]:
        waiting = [
            (task.name, op)
            for task, op in zip(world.tasks, pending, strict=True)
            if op is not None and op.may_block
        ]
        message = "; ".join([f"{name} waits to {op.describe()}" for name, op in waiting])
        cells = [cell.name for _, op in waiting for cell in op.cells]
        return (SPEC.finding("deadlock/stuck", message, *dict.fromkeys(cells)),)


def _build(world: World, vm: Vm | None) -> Deadlock:
    del world, vm
    return Deadlock()


SPEC = Oracle(
    title="some task can always go on until all have ended",
    source="Coffman et al., System Deadlocks (1971)",
    rule="while a vCPU or host thread has not ended, something that must act can act",
    build=_build,
)
