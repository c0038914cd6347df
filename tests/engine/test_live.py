from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.pickers import Replayed, Seeded
from tests.search.random_worlds import random_world
from tests.search.worlds import cells, notifier_retry, two_locks
from vmm.engine.cells import Cell, CellArray
from vmm.engine.events import AuditPoint, Event, Goal
from vmm.engine.hosts.direct import drive
from vmm.engine.live import Run
from vmm.engine.monitor import Audit, Change, Finding, Monitor, Step, View
from vmm.engine.ops import Op, choose, fence, mark, wait_until
from vmm.engine.oracles import IncrementalAudits
from vmm.engine.schedule import Schedule
from vmm.engine.task import Task, TaskKind
from vmm.engine.trace import Ending, Outcome
from vmm.engine.world import World
from vmm.errors import ForeignAwait


def run(world: World, seed: int = 0, **options: Any) -> Outcome:
    return drive(Run(world, Seeded(seed), **options))


def follow(world: World, tasks: str, *branches: int, **options: Any) -> Outcome:
    schedule = Schedule(bytes(map(int, tasks)), branches)
    return drive(Run(world, Replayed(schedule), **options))


def world_of(*programs: Callable[..., Any], initial: tuple[Any, ...] = (0, 0)) -> World:
    """A world of two cells and a task for each program."""
    world = World()
    arguments = cells(world, *initial)
    for program in programs:
        world.task(program.__name__, program, *arguments)
    return world


async def copies(a: Cell[Any], b: Cell[Any]) -> None:
    await b.set(await a)


async def sets(a: Cell[Any], b: Cell[Any]) -> None:
    await a.set(1)


async def waits(a: Cell[Any], b: Cell[Any]) -> None:
    await wait_until(a, bool)
    await b.set(2)


# --- steps and traces ---


def test_recorded_steps_say_what_happened() -> None:
    world = world_of(copies, sets)
    outcome = follow(world, "001", record=True)
    assert outcome.ending is Ending.QUIESCENT
    assert [(s.number, s.task.name, s.op.describe(), s.enabled) for s in outcome.trace] == [
        (1, "copies", "read c0", 0b11),
        (2, "copies", "write c1", 0b11),
        (3, "sets", "write c0", 0b10),
    ]
    assert [step.changes for step in outcome.trace] == [(), (), (Change(world.cells[0], 0, 1),)]
    assert (outcome.steps, outcome.switches, outcome.tasks) == (3, 1, b"\0\0\1")


def test_steps_are_kept_only_on_demand() -> None:
    assert run(world_of(copies)).trace == ()


def test_schedule_decides() -> None:
    ends = {}
    for tasks in ("001", "010", "100"):
        world = world_of(copies, sets)
        live = Run(world, Replayed(Schedule(bytes(map(int, tasks)))))
        drive(live)
        ends[tasks] = live.memory[1]
    assert ends == {"001": 0, "010": 0, "100": 1}


def test_branches_are_recorded() -> None:
    async def chooses(a: Cell[Any], b: Cell[Any]) -> None:
        await a.set(await choose(3))
        await choose(1)

    outcome = follow(world_of(chooses), "000", 2, 0, record=True)
    assert outcome.branches == (2, 0)
    assert [step.branch for step in outcome.trace] == [2, None, 0]


def test_blocked_task_is_not_enabled() -> None:
    outcome = follow(world_of(waits, sets), "100", record=True)
    assert [step.enabled for step in outcome.trace] == [0b10, 0b01, 0b01]
    assert outcome.trace[1].result == (1,)


def test_picker_is_asked_only_where_there_is_a_choice() -> None:
    class Counts(Seeded):
        asked = 0

        def pick(self, enabled: Any, pending: Any, last: int) -> int:
            self.asked += 1
            return super().pick(enabled, pending, last)

    picker = Counts(0)
    drive(Run(world_of(waits, sets), picker))
    assert picker.asked == 0


# --- digests ---


def test_digest_is_that_of_the_schedule() -> None:
    digests = {follow(world_of(copies, sets), tasks).digest for tasks in ("001", "010", "001")}
    assert len(digests) == 2


@pytest.mark.parametrize("seed", range(20))
def test_watching_a_run_does_not_change_it(seed: int) -> None:
    world, _ = random_world(seed)
    outcomes = [
        run(world, seed, **options)
        for options in ({}, {"record": True}, {"monitors": False}, {"incremental": True})
    ]
    assert len({(o.digest, o.steps, o.tasks, o.branches) for o in outcomes}) == 1


@pytest.mark.parametrize("seed", range(20))
def test_recorded_choices_replay_to_the_same_digest(seed: int) -> None:
    world, _ = random_world(seed)
    first = run(world, seed)
    again = drive(Run(world, Replayed(Schedule(first.tasks, first.branches))))
    assert (again.digest, again.ending) == (first.digest, first.ending)


def test_digest_does_not_depend_on_who_touched_sparse_cells_first() -> None:
    def world(*, touched: bool) -> World:
        world = World()
        array = world.array("sparse", 0)
        if touched:
            array[9], array[2]

        async def writes(array: CellArray[int, int]) -> None:
            await array[2].set(await array[1] + 5)

        world.task("it", writes, array)
        return world

    assert run(world(touched=False)).digest == run(world(touched=True)).digest


def test_digest_takes_any_value() -> None:
    async def writes(a: Cell[Any], b: Cell[Any]) -> None:
        await a.set(1 << 80)
        await b.set((TaskKind.DAEMON, ("x", None, b"y")))

    outcomes = [run(world_of(writes)) for _ in range(2)]
    assert outcomes[0].digest == outcomes[1].digest


def test_long_runs_are_digested_whole() -> None:
    def world(last: int) -> World:
        async def loops(a: Cell[Any], b: Cell[Any]) -> None:
            for number in range(5_000):
                await a.set(number)
            await a.set(last)

        return world_of(loops)

    outcomes = [run(world(last)) for last in (1, 1, 2)]
    assert outcomes[0].steps == 5_001
    assert outcomes[0].digest == outcomes[1].digest != outcomes[2].digest


# --- endings ---


def test_deadlock_says_who_waits_for_what() -> None:
    outcome = follow(two_locks(), "01")
    assert outcome.ending is Ending.DEADLOCK
    assert [finding.code for finding in outcome.findings] == ["deadlock/stuck"]
    assert "left waits to acquire two, held by right" in outcome.findings[0].message


def test_run_gives_up_at_its_step_budget() -> None:
    async def spins(a: Cell[Any], b: Cell[Any]) -> None:
        while not await a:
            pass

    outcome = run(world_of(spins), step_budget=100)
    assert (outcome.ending, outcome.steps, outcome.findings) == (Ending.STEP_BUDGET, 100, ())


def test_world_without_tasks_is_quiet() -> None:
    outcome = run(World())
    assert (outcome.ending, outcome.steps) == (Ending.QUIESCENT, 0)


@pytest.mark.parametrize(
    ("kind", "ending", "left"),
    [
        (TaskKind.EVENTUAL, Ending.QUIESCENT, (1, 2)),
        (TaskKind.OPTIONAL, Ending.QUIESCENT, (1, 0)),
        (TaskKind.DAEMON, Ending.QUIESCENT, (1, 0)),
        (TaskKind.FOREGROUND, Ending.QUIESCENT, (1, 2)),
    ],
)
def test_who_is_waited_for(kind: TaskKind, ending: Ending, left: tuple[int, int]) -> None:
    world = world_of(sets)
    world.task("other", waits, *world.cells, kind=kind)
    live = Run(world, Seeded(0))
    assert drive(live).ending is ending
    assert tuple(live.memory) == left


def test_optional_step_is_no_way_out_of_a_deadlock() -> None:
    for kind, ending in ((TaskKind.OPTIONAL, Ending.DEADLOCK), (TaskKind.DAEMON, Ending.QUIESCENT)):
        world = world_of(waits)
        world.task("other", sets, *world.cells, kind=kind)
        assert run(world).ending is ending


def test_goals_are_noted() -> None:
    async def marks(a: Cell[Any], b: Cell[Any]) -> None:
        await mark("marked")
        await a.read(event=lambda value: None if value else Goal("seen"))
        await mark("nobody's")

    world = world_of(marks)
    world.goals = ("marked", "seen", "never")
    for monitors in (True, False):
        assert run(world, monitors=monitors).goals == {"marked": True, "seen": True, "never": False}


# --- tasks ---


def test_failure_of_a_task_surfaces_as_itself_and_closes_the_others() -> None:
    closed = []

    async def divides(a: Cell[Any], b: Cell[Any]) -> None:
        await b.set(1 // await a)

    async def cleans_up(a: Cell[Any], b: Cell[Any]) -> None:
        try:
            await wait_until(a, bool)
        finally:
            closed.append("before")
            await fence()
            closed.append("after")

    with pytest.raises(ZeroDivisionError):
        run(world_of(cleans_up, divides))
    assert closed == ["before"]


def test_failure_before_the_first_op() -> None:
    async def fails(a: Cell[Any], b: Cell[Any]) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        run(world_of(copies, fails))


def test_foreign_await_names_task_and_place() -> None:
    class Foreign:
        def __await__(self) -> Any:
            yield 5

    async def strays(a: Cell[Any], b: Cell[Any]) -> None:
        await a
        await Foreign()

    with pytest.raises(ForeignAwait, match=r"task strays awaits a foreign int at .*test_live"):
        run(world_of(strays))


def test_other_tasks_may_run_on_the_same_world() -> None:
    world = world_of(copies)
    other = Task(0, "set-up", TaskKind.FOREGROUND, lambda: sets(*world.cells))
    live = Run(world, Seeded(0), tasks=[other])
    drive(live)
    assert live.memory == [1, 0]


def test_sparse_cells_may_be_made_by_any_of_several_runs() -> None:
    world = World()
    array = world.array("sparse", 0, content={5: 7})

    async def touches(array: CellArray[int, int]) -> None:
        await array[4].set(await array[5])

    world.task("it", touches, array)
    early, late = Run(world, Seeded(0)), Run(world, Seeded(0))
    assert early.memory == []
    drive(early)
    drive(late)
    assert early.memory == late.memory == [7, 7]
    assert world.live_memories == []


# --- monitors ---


class Watches(Monitor):
    """Keeps what it is shown, and finds what it is told to find."""

    name = "watches"
    events = (Goal,)
    counts = True

    def __init__(self, *, finds: bool = False) -> None:
        self.steps: list[Step] = []
        self.finds = finds

    def initial(self) -> int:
        return 0

    def on_event(self, state: int, event: Event, step: Step, view: View) -> Any:
        self.steps.append(step)
        found = Finding("watches/it", f"{state}", "", "")
        return state + 1, (found,) * self.finds


async def marks_writes(a: Cell[Any], b: Cell[Any]) -> None:
    event = Goal("x")
    await b.set(0)  # no event: not shown
    await a.set(0, event=event)
    await a.set(5, event=event)
    await a.update(lambda _: (True, "result"), event=event)


def test_monitor_sees_steps_with_events() -> None:
    world, monitor = world_of(marks_writes), Watches()
    world.monitors.append(monitor)
    run(world)
    a, _ = world.cells
    assert [step.changes for step in monitor.steps] == [
        (),
        (Change(a, 0, 5),),
        (Change(a, 5, True),),
    ]
    assert monitor.steps[-1].result == "result"
    assert monitor.steps[-1].task is world.tasks[0]


def test_equal_value_of_another_identity_is_no_change() -> None:
    async def writes(a: Cell[Any], b: Cell[Any]) -> None:
        value = (1, 2, await b)
        await a.set(value, event=Goal("x"))

    world, monitor = world_of(writes, initial=((1, 2, 3), 3)), Watches()
    world.monitors.append(monitor)
    run(world)
    assert monitor.steps[0].changes == ()


def test_finding_ends_the_run_before_the_task_goes_on() -> None:
    world = world_of(marks_writes)
    world.monitors.append(Watches(finds=True))
    outcome = run(world)
    assert (outcome.ending, outcome.steps) == (Ending.FINDING, 2)
    assert [finding.message for finding in outcome.findings] == ["0"]
    assert run(world, monitors=False).ending is Ending.QUIESCENT


def test_pending_access_is_judged_as_it_is_published() -> None:
    class Forbids(Monitor):
        name = "forbids"
        sees_pending = True

        def on_pending(self, task: Task, op: Op, view: View) -> tuple[Finding, ...]:
            bad = op.writes and op.cell is not None and view[op.cell] == 1
            return (Finding("forbids/write", f"{task.name}: {op.describe()}", "", ""),) * bad

    world = world_of(copies, sets)
    world.monitors.append(Forbids())
    assert run(world).ending is Ending.QUIESCENT
    world = world_of(sets, initial=(1, 1))
    world.monitors.append(Forbids())
    outcome = run(world)
    assert (outcome.ending, outcome.steps) == (Ending.FINDING, 0)
    assert outcome.findings[0].message == "sets: write c0"


# --- audits ---


class Zero(Audit):
    """The watched cells hold 0. ``blind`` incremental audits find nothing."""

    name = "zero"

    def __init__(self, *watched: Any, blind: bool = False) -> None:
        self.looked_at: list[tuple[str, ...]] = []
        self._watched = watched
        self._blind = blind

    def watched(self) -> tuple[Any, ...]:
        return self._watched

    def full(self, state: Any, view: View) -> tuple[Finding, ...]:
        return self._judge([cell for cell in self._watched if view[cell]])

    def incremental(
        self, state: Any, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        self.looked_at.append(tuple([cell.name for cell in written]))
        return () if self._blind else self._judge([cell for cell in written if view[cell]])

    def _judge(self, bad: list[Cell[Any]]) -> tuple[Finding, ...]:
        return tuple([Finding("zero/not", cell.name, "", "") for cell in bad])


async def audited(a: Cell[Any], b: Cell[Any]) -> None:
    await a.set(1)
    await a.set(0, event=AuditPoint("here"))
    await b.set(0, event=AuditPoint("here"))
    await b.set(3, event=AuditPoint("here"))


def audited_world(**options: Any) -> tuple[World, Zero]:
    world = world_of(audited)
    audit = Zero(*world.cells, **options)
    world.monitors.append(audit)
    return world, audit


def test_incremental_audit_looks_at_what_changed_since() -> None:
    world, audit = audited_world()
    outcome = run(world, incremental=True)
    assert [finding.message for finding in outcome.findings] == ["c1"]
    assert (outcome.ending, outcome.steps) == (Ending.FINDING, 4)
    assert audit.looked_at == [("c0",), ("c1",)]


def test_full_audit_finds_the_same() -> None:
    world, audit = audited_world()
    outcome = run(world)
    assert ([f.message for f in outcome.findings], outcome.steps) == (["c1"], 4)
    assert audit.looked_at == []


def test_checkpoint_shows_what_incremental_audits_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = audited_world(blind=True)
    outcome = run(world, incremental=True)  # at the end
    assert outcome.ending is Ending.FINDING
    assert outcome.findings[0].message == "c1 (the incremental audit missed it)"

    async def goes_on(a: Cell[Any], b: Cell[Any]) -> None:
        await a.set(1)
        for _ in range(10):
            await b.set(0, event=AuditPoint("here"))

    monkeypatch.setattr(IncrementalAudits, "CHECKPOINT", 4)
    world = world_of(goes_on)
    world.monitors.append(Zero(*world.cells, blind=True))
    assert run(world, incremental=True).steps == 5


def test_audit_may_watch_a_whole_array() -> None:
    async def writes(array: CellArray[int, int]) -> None:
        await array[3].set(1, event=AuditPoint("here"))

    class Nothing(Zero):
        def full(self, state: Any, view: View) -> tuple[Finding, ...]:
            return ()

    world = World()
    array = world.array("sparse", 0)
    audit = Nothing(array)
    world.task("it", writes, array)
    world.monitors.append(audit)
    run(world, incremental=True)
    assert audit.looked_at == [("sparse[3]",)]


def test_view_of_an_array_is_what_differs_from_the_default() -> None:
    world = World()
    array = world.array("sparse", 0, content={7: 1, 3: 2})
    plain = array[5]
    memory = {cell.index: cell.initial for cell in world.cells} | {plain.index: 9}
    view = View(lambda index: memory.get(index, world.cells[index].initial))
    assert [*view.items(array)] == [(3, 2), (5, 9), (7, 1)]


# --- the calibration world ---


def test_sampling_finds_the_stale_entry() -> None:
    world = notifier_retry(2, guard=False)
    outcomes = [run(world, seed) for seed in range(200)]
    found = [o for o in outcomes if o.ending is Ending.FINDING]
    assert found
    assert {f.code for o in found for f in o.findings} == {"notifier-retry/stale-spte"}
    fixed = notifier_retry(2, guard=True)
    assert all(run(fixed, seed).ending is Ending.QUIESCENT for seed in range(200))
