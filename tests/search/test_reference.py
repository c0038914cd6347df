from collections.abc import Callable
from typing import Any, cast

import pytest

from tests.engine.pickers import Replayed
from tests.search.worlds import cells, notifier_retry, two_locks
from vmm.engine.cells import Cell, CellArray
from vmm.engine.events import Goal
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.live import Run
from vmm.engine.monitor import Finding, Monitor, View
from vmm.engine.ops import Op, atomically, choose, fence, mark, wait_until
from vmm.engine.schedule import Schedule
from vmm.engine.task import TaskKind
from vmm.engine.trace import Ending, Outcome
from vmm.engine.world import World
from vmm.errors import CaptureRefused, UsageError
from vmm.search.reference import search
from vmm.search.result import Result, Verdict


def replay(world: World, schedule: Schedule, host: str = "direct") -> Outcome:
    return driver(host)(Run(world, Replayed(schedule)))


def contents(result: Result) -> set[tuple[Any, ...]]:
    return {tuple(content.values()) for content in result.terminal}


# --- calibration: figures of programs that share no code with this one ---


@pytest.mark.parametrize(
    ("vcpus", "guard", "states", "transitions", "terminal", "bad"),
    [
        (1, True, 199, 313, 3, 0),
        (2, True, 3_741, 8_405, 9, 0),
        pytest.param(3, True, 84_233, 248_494, 27, 0, marks=pytest.mark.slow),
        (1, False, None, None, 4, 1),
        (2, False, 2_292, 4_737, 14, 5),
        pytest.param(3, False, None, None, 46, 19, marks=pytest.mark.slow),
    ],
)
def test_calibration(
    vcpus: int, guard: bool, states: int | None, transitions: int | None, terminal: int, bad: int
) -> None:
    result = search(notifier_retry(vcpus, guard=guard), monitors=False)
    assert result.verdict is Verdict.CLEAN
    assert states is None or result.states == states
    assert transitions is None or result.transitions == transitions
    assert result.terminal_states == terminal
    assert sum(end["spte"] not in (0, end["pfn"]) for end in result.terminal) == bad


def test_calibration_world_is_clean_with_its_guard() -> None:
    result = search(notifier_retry(2, guard=True))
    assert (result.verdict, result.complete, result.findings) == (Verdict.CLEAN, True, ())
    assert result.states == 3_741  # the monitor's state says nothing that the tasks' do not
    assert all(result.goals.values())


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("vcpus", [1, 2])
def test_counterexample_replays_on_every_host(vcpus: int, host: str) -> None:
    world = notifier_retry(vcpus, guard=False)
    result = search(world)
    assert result.verdict is Verdict.VIOLATED
    assert result.schedule is not None
    assert [finding.code for finding in result.findings] == ["notifier-retry/stale-spte"]
    outcome = replay(world, result.schedule, host)
    assert (outcome.ending, outcome.findings) == (Ending.FINDING, result.findings)
    assert (outcome.tasks, outcome.branches) == (result.schedule.tasks, result.schedule.branches)


def test_all_violations_can_be_passed_by() -> None:
    result = search(notifier_retry(2, guard=False), stop_at_first=False)
    assert (result.verdict, result.complete) == (Verdict.VIOLATED, True)
    assert result.terminal_states == 14 - 5
    assert result.transitions == 4_737


# --- ends ---


@pytest.mark.parametrize("host", HOSTS)
def test_deadlock_of_two_locks(host: str) -> None:
    world = two_locks()
    result = search(world)
    assert result.verdict is Verdict.VIOLATED
    (finding,) = result.findings
    assert finding.code == "deadlock/stuck"
    assert "left waits to acquire two, held by right" in finding.message
    assert "a cycle: left -> right -> left" in finding.message
    assert result.schedule is not None
    assert sorted(result.schedule.tasks) == [0, 1]  # one step each is enough
    outcome = replay(world, result.schedule, host)
    assert (outcome.ending, outcome.findings) == (Ending.DEADLOCK, result.findings)


def test_terminal_contents_are_those_of_both_ends() -> None:
    result = search(two_locks(), stop_at_first=False)
    assert (result.complete, result.deadlocks) == (True, 1)
    assert contents(result) == {(0,), (3,)}


def test_monitor_words_a_deadlock() -> None:
    class Words(Monitor):
        name = "words"
        sees_stuck = True

        def on_stuck(
            self, world: World, pending: tuple[Op | None, ...], view: View
        ) -> tuple[Finding, ...]:
            waiting = ", ".join([op.describe() for op in pending if op is not None])
            return (Finding("words/stuck", waiting, "", ""),)

    world = two_locks()
    world.monitors.append(Words())
    assert search(world).findings[0].message == "acquire two, acquire one"


def test_world_may_be_stuck_or_quiet_at_once() -> None:
    world = World()
    (a,) = cells(world, 0)
    assert search(world).terminal_states == 1

    async def waits() -> None:
        await wait_until(a, bool)

    world.task("it", waits)
    result = search(world)
    assert result.findings[0].code == "deadlock/stuck"
    assert result.schedule == Schedule(b"")
    assert (result.states, result.depth, result.deadlocks) == (1, 0, 1)


def background(kind: TaskKind, program: Callable[..., Any]) -> World:
    """A task that sets c0, and another one of some kind."""
    world = World()
    a, b = cells(world, 0, 0)

    async def sets() -> None:
        await a.set(1)

    world.task("sets", sets)
    world.task("other", program, a, b, kind=kind)
    return world


async def follows(a: Cell[int], b: Cell[int]) -> None:
    await wait_until(a, bool)
    await b.set(1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TaskKind.FOREGROUND, {(1, 1)}),
        (TaskKind.EVENTUAL, {(1, 1)}),
        (TaskKind.OPTIONAL, {(1, 0)}),
        (TaskKind.DAEMON, {(1, 0)}),
    ],
)
def test_run_ends_when_nobody_is_waited_for(kind: TaskKind, expected: set[Any]) -> None:
    assert contents(search(background(kind, follows))) == expected


async def enables(a: Cell[int], b: Cell[int]) -> None:
    await b.set(1)


@pytest.mark.parametrize(
    ("kind", "deadlocks"),
    [(TaskKind.EVENTUAL, 0), (TaskKind.DAEMON, 0), (TaskKind.OPTIONAL, 1)],
)
def test_only_optional_steps_do_not_help_a_deadlock(kind: TaskKind, deadlocks: int) -> None:
    world = background(kind, enables)
    b = world.cells[1]

    async def needs() -> None:
        await wait_until(b, bool)

    world.task("needs", needs)
    result = search(world, stop_at_first=False)
    assert bool(result.deadlocks) == bool(deadlocks)


def test_optional_steps_are_taken_where_they_matter() -> None:
    world = World()
    a, b = cells(world, 0, 0)

    async def looks() -> None:
        await b.set(await a)

    async def evicts() -> None:
        await a.set(7)

    world.task("looks", looks)
    world.task("evicts", evicts, kind=TaskKind.OPTIONAL)
    assert contents(search(world)) == {(0, 0), (7, 0), (7, 7)}


# --- livelock ---


def test_inescapable_livelock() -> None:
    world = World()
    (a,) = cells(world, 0)

    async def flips() -> None:
        if await choose(2):
            while not await a:
                pass

    world.task("flips", flips)
    result = search(world)
    assert (result.verdict, result.complete) == (Verdict.VIOLATED, True)
    assert [finding.code for finding in result.findings] == ["livelock/inescapable"]
    assert "flips goes round (read c0)" in result.findings[0].message
    assert result.schedule is not None
    assert result.schedule.branches == (1,)
    assert result.schedule.repeats_from == len(result.schedule.tasks) - 1


@pytest.mark.parametrize(("kind", "lost"), [(TaskKind.EVENTUAL, False), (TaskKind.OPTIONAL, True)])
def test_optional_steps_are_no_way_out(kind: TaskKind, lost: bool) -> None:
    world = World()
    (a,) = cells(world, 0)

    async def spins() -> None:
        while not await a:
            pass

    async def sets() -> None:
        await a.set(1)

    world.task("spins", spins)
    world.task("sets", sets, kind=kind)
    assert (search(world).verdict is Verdict.VIOLATED) == lost


def test_eventual_tasks_that_never_rest_are_a_livelock() -> None:
    async def never_rests(a: Cell[int], b: Cell[int]) -> None:
        while True:
            await b.set(1 - await b)

    assert search(background(TaskKind.EVENTUAL, never_rests)).findings[0].code == (
        "livelock/inescapable"
    )
    assert search(background(TaskKind.DAEMON, never_rests)).verdict is Verdict.CLEAN


def test_deadlock_is_no_livelock() -> None:
    result = search(two_locks(), stop_at_first=False)
    assert [finding.code for finding in result.findings] == ["deadlock/stuck"]


# --- ops ---


def test_compare_and_swap_has_one_winner() -> None:
    world = World()
    a, wins = cells(world, 0, 0)

    async def tries(number: int) -> None:
        if await a.cas(0, number):
            await wins.set(await wins + 1)

    for number in (1, 2):
        world.task(f"task {number}", tries, number)
    assert contents(search(world)) == {(1, 1), (2, 1)}


async def increments(a: Cell[int]) -> None:
    await a.set(await a + 1)


async def increments_locked(a: Cell[int]) -> None:
    await a.update(lambda value: (value + 1, value))


@pytest.mark.parametrize(("program", "ends"), [(increments, {1, 2}), (increments_locked, {2})])
def test_lost_update(program: Callable[..., Any], ends: set[int]) -> None:
    world = World()
    (a,) = cells(world, 0)
    for name in "ab":
        world.task(name, program, a)
    assert contents(search(world)) == {(end,) for end in ends}


def test_atomic_action_waits_for_its_condition() -> None:
    world = World()
    a, b = cells(world, 0, 5)

    async def moves() -> None:
        await atomically(lambda x, y, n: ((x + n, y - n), None), (a, b), 2, when=lambda x, _: x > 0)

    async def starts() -> None:
        await fence()
        await a.set(1)

    world.task("moves", moves)
    world.task("starts", starts)
    assert contents(search(world)) == {(3, 3)}


def test_choices_are_all_taken() -> None:
    world = World()
    (a,) = cells(world, 0)

    async def chooses() -> None:
        await a.set(await choose(2) * 10 + await choose(3))

    world.task("it", chooses)
    result = search(world)
    assert contents(result) == {(0,), (1,), (2,), (10,), (11,), (12,)}
    assert (result.states, result.transitions, result.depth) == (15, 14, 3)


def test_goals_are_noted_where_they_are_reached() -> None:
    world = World()
    (a,) = cells(world, 0)
    world.goals = ("marked", "seen", "never")

    async def marks() -> None:
        await mark("marked")
        await a.read(event=lambda value: Goal("never") if value else Goal("seen"))
        await mark("nobody's")

    world.task("it", marks)
    assert search(world).goals == {"marked": True, "seen": True, "never": False}


def test_sparse_cell_is_initial_until_it_is_written() -> None:
    world = World()
    array = world.array("sparse", 0)
    (key,) = cells(world, 3)

    async def writes(array: CellArray[int, int], value: int) -> None:
        await array[await key].set(value)

    world.task("one", writes, array, 1)
    world.task("nought", writes, array, 0)
    result = search(world)
    assert list(result.terminal) == [{"c0": 3}, {"c0": 3, "sparse[3]": 1}] or list(
        result.terminal
    ) == [{"c0": 3, "sparse[3]": 1}, {"c0": 3}]
    # Two reads and two writes: 9 states of the tasks; both orders of the writes differ at the end.
    assert result.states == 10


def test_state_is_the_same_whenever_its_cells_were_made() -> None:
    def run(*, touched: bool) -> Result:
        world = World()
        array = world.array("sparse", 0)

        async def resets(array: CellArray[int, int]) -> None:
            await array[1].set(1)
            await array[2].set(1)
            await array[2].set(0)
            await array[1].set(0)

        if touched:
            world.task("idle", _idle, array[1], array[2])
        world.task("it", resets, array)
        return search(world)

    assert run(touched=False).states == run(touched=True).states == 5


async def _idle(*kept: Cell[int]) -> None:
    del kept


# --- budgets and interruptions ---


def test_budget_ends_a_search() -> None:
    result = search(notifier_retry(2, guard=True), max_states=500)
    assert (result.verdict, result.complete) == (Verdict.INCOMPLETE, False)
    assert 500 < result.states < 520
    assert result.schedule is None


def test_budget_that_suffices_changes_nothing() -> None:
    result = search(notifier_retry(1, guard=True), max_states=199)
    assert (result.verdict, result.complete, result.states) == (Verdict.CLEAN, True, 199)


def test_violation_counts_although_the_budget_ended() -> None:
    result = search(two_locks(), max_states=7, stop_at_first=False)
    assert (result.verdict, result.complete) == (Verdict.VIOLATED, False)


def test_interrupt_keeps_what_was_found() -> None:
    told: list[tuple[int, int]] = []

    def interrupt(states: int, frontier: int) -> None:
        told.append((states, frontier))
        if len(told) == 5:
            raise KeyboardInterrupt

    result = search(notifier_retry(2, guard=True), on_progress=interrupt)
    assert (result.verdict, result.complete, result.depth) == (Verdict.INCOMPLETE, False, 5)
    assert told[-1][0] == result.states
    assert told[0] == (4, 3)


def test_error_of_a_task_surfaces_as_itself() -> None:
    world = World()
    lock = world.lock("lock")

    async def releases() -> None:
        await lock.release()

    world.task("it", releases)
    with pytest.raises(UsageError, match="releases lock"):
        search(world)


def test_refusal_closes_the_other_tasks() -> None:
    closed = []
    world = World()
    (a,) = cells(world, 0)

    async def cleans_up() -> None:
        try:
            await a
        finally:
            closed.append(1)

    async def keeps_a_set() -> None:
        kept = cast(Any, set)()
        await a
        kept.clear()

    world.task("cleans up", cleans_up)
    world.task("keeps a set", keeps_a_set)
    with pytest.raises(CaptureRefused, match="kept"):
        search(world)
    assert closed == [1]
