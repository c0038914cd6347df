"""No walk goes on into a shadow page that was freed since the walk learned where it lies.

    walker                                 host
    reads an entry of level 2: page S
                                           unlinks S, frees it
                                           takes it out again, for another table
    reads level 1 in S: somebody else's

``host_isolation`` knows pages that are free; this also knows those in use again. Walkers are
processors, but for their walks ahead, and vCPUs that read the shadow without mmu_lock.
"""

from __future__ import annotations

from typing import NamedTuple

from vmm.bits import P, frame_of
from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.hw.events import WalkRead
from vmm.hw.tlb import UpperEntry
from vmm.mmu.api import LocklessRead, ShadowPageFreed
from vmm.mmu.mmu import ShadowMmu
from vmm.monitors import Oracle
from vmm.units import Gva
from vmm.vcpu.vcpu import Vm


class Walk(NamedTuple):
    """A walk that has read ``level``, and goes on to ``table``, which may have been freed since."""

    walker: str
    gva: Gva
    level: int
    table: int
    freed: bool = False


Walks = tuple[Walk, ...]


class FreedUnderWalk(Monitor):
    """The state is the walks that have a table of a lower level still to read, by walker."""

    name = "lifetime/freed-under-walk"
    events = (WalkRead, LocklessRead, ShadowPageFreed)

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    def initial(self) -> Walks:
        return ()

    def on_event(self, state: Walks, event: Event, step: Step, view: View) -> Verdict:
        del view
        if isinstance(event, WalkRead):
            if event.ahead:
                return state, ()
            walker = f"the walker of pCPU {event.pcpu}"
        elif isinstance(event, LocklessRead):
            walker = f"vCPU {event.vcpu}, without mmu_lock,"
        else:
            assert isinstance(event, ShadowPageFreed)
            table = self.mmu.cache.pages[event.page].pfn
            return tuple([w._replace(freed=w.freed or w.table == table) for w in state]), ()
        before, rest = None, state
        for at, walk in enumerate(state):
            if walk.walker == walker:
                before, rest = walk, (*state[:at], *state[at + 1 :])
                break
        here = (event.gva, event.level + 1, event.table)
        if before is not None and before.freed and before[1:4] == here:
            page = self.mmu.cache.page_at(event.table).number
            message = (
                f"{walker} reads level {event.level} for gva {event.gva:#x} in sp{page}, which was "
                f"freed after level {before.level} had been read"
            )
            cells = [step.op.cell.name] if step.op.cell is not None else []
            return state, (SPEC.finding("lifetime/freed-under-walk", message, *cells),)
        below = _table_below(event, step.result)
        if below is None:
            return rest, ()
        walk = Walk(walker, event.gva, event.level, below)
        return tuple(sorted((*rest, walk))) if rest else (walk,), ()


def _table_below(event: WalkRead | LocklessRead, read: int | UpperEntry | None) -> int | None:
    """Where the walk goes on: what it read is an entry, or one as structure caches have it."""
    if event.level == 1 or read is None:
        return None
    if isinstance(read, UpperEntry):
        return read.table
    return frame_of(read) if read & P else None


def _build(world: World, vm: Vm | None) -> FreedUnderWalk | None:
    del world
    return None if vm is None else FreedUnderWalk(vm.mmu)


SPEC = Oracle(
    title="no walk follows a pointer to a shadow page that was freed meanwhile",
    source="KVM c142786c62 (2012), 7775834a23 (2.6.36); Intel SDM vol. 3, 4.10.4.4",
    rule="a shadow page is freed only when no walk can be on its way to it",
    build=_build,
)
