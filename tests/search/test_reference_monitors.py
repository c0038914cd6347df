"""Monitors at work in the reference search: as in a live run."""

from typing import Any

import pytest

from tests.engine.pickers import Replayed
from tests.search.worlds import cells
from vmm.engine.cells import Cell
from vmm.engine.events import AuditPoint, Event, Goal
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.monitor import Audit, Finding, Monitor, Step, View
from vmm.engine.ops import Op, audit_point
from vmm.engine.schedule import Schedule
from vmm.engine.task import Task, TaskKind
from vmm.engine.trace import Outcome
from vmm.engine.world import World
from vmm.search.reference import search
from vmm.search.result import Verdict


def replay(world: World, schedule: Schedule) -> Outcome:
    return drive(Run(world, Replayed(schedule)))


class Counts(Monitor):
    """Finds the third event; its state is how many there were."""

    name = "counts"
    events = (Goal,)

    def initial(self) -> int:
        return 0

    def on_event(self, state: int, event: Event, step: Step, view: View) -> Any:
        found = Finding("counts/third", f"{step.task.name}: {step.changes}", "", "")
        return state + 1, (found,) if state == 2 else ()


@pytest.mark.parametrize(("judged", "states"), [(False, 4), (True, 5)])
def test_monitor_state_is_part_of_the_state(judged: bool, states: int) -> None:
    world = World()
    (a,) = cells(world, 0)

    async def looks() -> None:
        await a.read(event=lambda value: Goal("late") if value else None)

    async def sets() -> None:
        await a.set(1)

    world.task("looks", looks)
    world.task("sets", sets)
    world.monitors.extend([Counts()] * judged)
    assert search(world).states == states


def test_shortest_counterexample() -> None:
    world = World()
    (a,) = cells(world, 0)

    async def long() -> None:
        for _ in range(4):
            await a
        await a.set(1, event=(Goal("x"), Goal("x"), Goal("x")))

    async def short() -> None:
        await a
        await a.set(2, event=(Goal("x"), Goal("x"), Goal("x")))

    world.task("long", long)
    world.task("short", short)
    world.monitors.append(Counts())
    result = search(world)
    assert result.schedule == Schedule(b"\1\1")
    assert result.findings == replay(world, Schedule(b"\1\1")).findings
    assert "old=0, new=2" in result.findings[0].message


class Guarded(Monitor):
    """Any published write to the first cell while it holds 1."""

    name = "guarded"
    sees_pending = True

    def on_pending(self, task: Task, op: Op, view: View) -> tuple[Finding, ...]:
        if op.writes and op.cell is not None and op.cell.index == 0 and view[op.cell] == 1:
            return (Finding("guarded/write", f"{task.name} is about to write", "", ""),)
        return ()


def test_pending_access_is_judged_when_it_is_published() -> None:
    world = World()
    (a,) = cells(world, 0)

    async def writes_late() -> None:
        await a
        await a.set(2)

    async def sets() -> None:
        await a.set(1)

    world.task("late", writes_late)
    world.task("sets", sets)
    world.monitors.append(Guarded())
    result = search(world)
    assert result.schedule == Schedule(b"\1\0")
    assert replay(world, result.schedule).findings == result.findings


def test_first_access_is_judged_before_the_first_step() -> None:
    world = World()
    (a,) = cells(world, 1)

    async def sets() -> None:
        await a.set(1)

    world.task("sets", sets)
    world.monitors.append(Guarded())
    result = search(world)
    assert (result.verdict, result.schedule) == (Verdict.VIOLATED, Schedule(b""))
    outcome = replay(world, Schedule(b""))
    assert (outcome.findings, outcome.steps) == (result.findings, 0)


class Even(Audit):
    name = "even"

    def __init__(self, *watched: Cell[int]) -> None:
        self.cells = watched

    def watched(self) -> tuple[Cell[int], ...]:
        return self.cells

    def full(self, state: Any, view: View) -> tuple[Finding, ...]:
        odd = [cell.name for cell in self.cells if view[cell] % 2]
        return tuple([Finding("even/odd", name, "", "") for name in odd])


@pytest.mark.parametrize("audited", ["point", "event"])
def test_audits_judge_the_state_at_audit_points(audited: str) -> None:
    world = World()
    (a,) = cells(world, 0)

    async def sets() -> None:
        await a.set(1)
        await a.set(2, event=AuditPoint("even again"))
        await a.set(3, event=AuditPoint("odd") if audited == "event" else None)
        if audited == "point":
            await audit_point("odd")

    world.task("sets", sets)
    world.monitors.append(Even(a))
    result = search(world)
    assert [finding.code for finding in result.findings] == ["even/odd"]
    assert result.schedule == Schedule(bytes(3 + (audited == "point")))


def test_monitors_that_count_are_left_out() -> None:
    class Exits(Counts):
        counts = True

    world = World()
    (a,) = cells(world, 0)

    async def marks_for_ever() -> None:
        while not await a.read(event=Goal("again")):
            pass

    world.task("it", marks_for_ever, kind=TaskKind.DAEMON)
    world.task("other", _idle_step, a)
    world.monitors.append(Exits())
    assert search(world).verdict is Verdict.CLEAN


async def _idle_step(a: Cell[int]) -> None:
    await a
