"""No update of guest memory is lost between the read and the write of a locked instruction."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.hw.events import Exchange
from vmm.hw.memory import part_of
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm


class LostUpdates(Monitor):
    """Holds what an exchange replaces against what it believes to replace."""

    name = "update/lost"
    events = (Exchange,)

    def on_event(self, state: None, event: Event, step: Step, view: View) -> Verdict:
        del view
        assert isinstance(event, Exchange)
        # Buffered cells are memory; a drain changes its store buffer too.
        return state, tuple(
            [
                SPEC.finding(
                    "update/lost",
                    f"{step.task.name} replaces {change.cell.name} = "
                    f"{change.cell.format(change.old)}, which was stored since it read "
                    f"{change.cell.format(event.seen)}",
                    change.cell.name,
                )
                for change in step.changes
                if change.cell.buffered and part_of(change.old, event.gpa, event.size) != event.seen
            ]
        )


def _build(world: World, vm: Vm | None) -> LostUpdates | None:
    del world
    return None if vm is None else LostUpdates()


SPEC = Oracle(
    title="a locked read-modify-write of guest memory loses no other store",
    source="Intel SDM vol. 3, 9.1.2 (bus locking); KVM b3e4e63fd9 (2008), daea3e73cb (2010)",
    rule="what a locked instruction or an update of A and D replaces is what it had read",
    build=_build,
)
