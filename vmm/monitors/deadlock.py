"""Deadlock: not quiet, and nothing that must act can."""

from __future__ import annotations

from vmm.engine.monitor import Finding, Monitor, View
from vmm.engine.ops import Op
from vmm.engine.waits import who_waits
from vmm.engine.world import World
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm


class Deadlock(Monitor):
    """Says who waits for what."""

    name = "deadlock/stuck"
    sees_stuck = True

    def on_stuck(
        self, world: World, pending: tuple[Op | None, ...], view: View
    ) -> tuple[Finding, ...]:
        waits = who_waits(world, pending, view)
        return (SPEC.finding("deadlock/stuck", waits.message, *waits.cells),)


def _build(world: World, vm: Vm | None) -> Deadlock:
    del world, vm
    return Deadlock()


SPEC = Oracle(
    title="some task can always go on until all have ended",
    source="Coffman et al., System Deadlocks (1971)",
    rule="while a vCPU or host thread has not ended, something that must act can act",
    build=_build,
)
