"""Plain accesses to a cell without a lock never meet an access that conflicts with them.

A data race is a state in which two programs have accesses to one cell pending, at least one of
them stores, and at least one of them is plain: neither a locked instruction nor one to a cell that
is marked, since it races by design (sptes, gptes, requests). Hardware is exempt, and so is the
guest, whose memory is marked. Cells with a lock are the affair of ``lock_guard``.
"""

from __future__ import annotations

from typing import Any

from vmm.engine.cells import Cell
from vmm.engine.monitor import Finding, Monitor, View
from vmm.engine.ops import Op, Write
from vmm.engine.task import Task, TaskKind
from vmm.engine.tso import bare
from vmm.engine.world import World
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

PROGRAMS = (TaskKind.FOREGROUND, TaskKind.DAEMON)


class DataRace(Monitor):
    """Judges each access with those that others have pending: in every state, the last one to come.

    It asks for locked accesses too, since a plain one may have been there before.
    """

    name = "race/plain-access"
    sees_pending = True

    def sees_access(self, cell: Cell[Any]) -> bool:
        return not cell.marked and cell.lock is None

    def on_pending(self, task: Task, op: Op, view: View) -> tuple[Finding, ...]:
        if task.kind not in PROGRAMS:
            return ()
        mine = bare(op)
        found = [
            _race(cell, task, mine, other, bare(pending))
            for cell in mine.cells
            if self.sees_access(cell)
            for other, pending in view.accesses(cell, but=task)
            if other.kind in PROGRAMS and _conflict(cell, mine, bare(pending))
        ]
        return tuple(found)


def _conflict(cell: Cell[object], mine: Op, theirs: Op) -> bool:
    stores = any(written is cell for written in (*mine.written, *theirs.written))
    return stores and (_is_plain(mine) or _is_plain(theirs))


def _is_plain(op: Op) -> bool:
    return not op.locked and not (isinstance(op, Write) and op.serialising)


def _race(cell: Cell[object], task: Task, mine: Op, other: Task, theirs: Op) -> Finding:
    message = (
        f"{task.name} is about to {mine.describe()} while {other.name} is about to "
        f"{theirs.describe()}, with no lock between them"
    )
    return SPEC.finding("race/plain-access", message, cell.name)


def _build(world: World, vm: Vm | None) -> DataRace | None:
    del world
    return None if vm is None else DataRace()


SPEC = Oracle(
    title="plain accesses are ordered by a lock, or meet no conflicting one",
    source="tools/memory-model/Documentation/access-marking.txt; Documentation/dev-tools/kcsan.rst",
    rule="of two conflicting accesses that may happen at the same time, neither is plain",
    build=_build,
)
