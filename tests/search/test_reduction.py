"""Partial-order reduction against the search without it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.search.guarded_worlds import guarded_world, sharing_world
from tests.search.random_worlds import random_world
from tests.search.test_exhaustive import FILES, judged, replays, small, told
from vmm.engine.cells import Cell, Guard
from vmm.engine.events import Event, Goal
from vmm.engine.monitor import Finding, Monitor, Step, View
from vmm.engine.ops import Op, mark
from vmm.engine.task import Task, TaskKind
from vmm.engine.world import ModelObject, World
from vmm.scenario.experiment import prepare
from vmm.scenario.loading import load
from vmm.search import exhaustive, reference
from vmm.search.exhaustive import search
from vmm.search.result import Result, Verdict

QUICK = ("emulated_write_order", "tlb_shootdown")
SEEDS = range(12)
SHARING_SEEDS = range(6)


def contents(result: Result) -> Counter[str]:
    return Counter(str(sorted(content.items())) for content in result.terminal)


# --- random worlds ---


def compare_random(seed: int, *makes: Callable[[int], tuple[World, str]]) -> tuple[int, int]:
    """All that may not depend on the reduction does not; gives the states without and with it."""
    for make in makes:
        world, source = make(seed)
        hint = f"seed {seed}\n{source}"
        full = search(world, monitors=False, stop_at_first=False)
        world, _ = make(seed)
        reduced = search(world, monitors=False, stop_at_first=False, reduce=True, shortest=False)
        assert contents(reduced) == contents(full), hint
        assert bool(reduced.deadlocks) == bool(full.deadlocks), hint
        assert reduced.verdict == full.verdict, hint
        assert reduced.goals == full.goals, hint
        assert reduced.states <= full.states, hint

        found = search(judged(make(seed)[0], seed))
        world = judged(make(seed)[0], seed)
        far = search(world, reduce=True, shortest=False)
        assert far.verdict == found.verdict, hint
        replays(judged(make(seed)[0], seed), far)
        near = search(judged(make(seed)[0], seed), reduce=True)
        if near.findings:
            # The reduced search before may have met more local states, and goals.
            more: dict[str, Any] = {"local_states": (), "goals": {}}
            assert replace(told(near), **more) == replace(told(found), **more), hint
        else:
            assert contents(near) == contents(found), hint
    return full.states, reduced.states


@pytest.mark.parametrize("first", range(0, len(SEEDS), 6))
def test_random_worlds(first: int) -> None:
    seeds = range(first, first + 6)
    states = [compare_random(seed, random_world, guarded_world) for seed in seeds]
    assert any(reduced < full for full, reduced in states)


def test_random_worlds_with_a_readers_writer_lock() -> None:
    states = [compare_random(seed, sharing_world) for seed in SHARING_SEEDS]
    assert any(reduced < full for full, reduced in states)
    for seed in SHARING_SEEDS:
        slow, fast = [
            made.search(sharing_world(seed)[0], monitors=False, stop_at_first=False)
            for made in (reference, exhaustive)
        ]
        assert told(fast) == told(slow), sharing_world(seed)[1]


@pytest.mark.slow
def test_many_random_worlds() -> None:
    for seed in range(SEEDS.stop, 2000):
        compare_random(seed, random_world, guarded_world)
    for seed in range(SHARING_SEEDS.stop, 400):
        compare_random(seed, sharing_world)


# --- calibration and scenarios ---


@pytest.mark.parametrize(
    ("vcpus", "guard", "contents"),
    [(1, 1, 3), (2, 1, 9), (3, 1, 27), (1, 0, 4), (2, 0, 14), (3, 0, 46)],
)
def test_terminal_contents_do_not_depend_on_it(vcpus: int, guard: int, contents: int) -> None:
    path = next(file for file in FILES if file.stem == "notifier_retry")
    states = []
    for reduce in (False, True):
        params = {"vcpus": str(vcpus), "guard": str(guard)}
        world = prepare(load(str(path)), params=params).world()
        result = search(world, monitors=False, reduce=reduce)
        assert result.terminal_states == contents
        assert result.reduced is reduce
        states.append(result.states)
    assert states[1] < 0.8 * states[0]


def compare(name: str) -> None:
    full = search(small(name).world(), witnesses=False)
    reduced = search(small(name).world(), witnesses=False, reduce=True)
    assert (full.verdict, reduced.verdict) == (Verdict.CLEAN, Verdict.CLEAN)
    assert contents(reduced) == contents(full)
    assert reduced.goals == full.goals


@pytest.mark.parametrize("name", QUICK)
def test_scenario(name: str) -> None:
    compare(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem not in QUICK])
def test_other_scenario(name: str) -> None:
    compare(name)


def test_what_is_found_is_a_shortest_way_to_it() -> None:
    full = search(small("stale_gpte", "stale-gpte").world())
    again = search(small("stale_gpte", "stale-gpte").world(), reduce=True)
    assert again.schedule == full.schedule
    assert not again.reduced
    far = search(small("stale_gpte", "stale-gpte").world(), reduce=True, shortest=False)
    assert [finding.code for finding in far.findings] == [f.code for f in full.findings]
    assert far.states < full.states
    replays(small("stale_gpte", "stale-gpte").world(), far)


def test_a_way_that_is_not_shortest_is_better_than_none() -> None:
    full = search(small("stale_gpte", "stale-gpte").world())
    result = search(
        small("stale_gpte", "stale-gpte").world(), reduce=True, max_states=full.states * 9 // 10
    )
    assert (result.verdict, result.complete) == (Verdict.VIOLATED, False)
    replays(small("stale_gpte", "stale-gpte").world(), result)


# --- one rule at a time ---


class Lab(ModelObject):
    """A lock, a cell fully guarded by it, one write guarded, one free."""

    def __init__(self, world: World) -> None:
        lock = self.lock = world.lock("lock")
        self.full: Cell[int] = world.cell("full", 0, guard=Guard.FULL, lock=lock)
        self.raced: Cell[int] = world.cell("raced", 0, guard=Guard.WRITE, lock=lock)
        self.free: Cell[int] = world.cell("free", 0)
        world.goals = ("here",)

    async def section(self, cell: Cell[int]) -> None:
        """Three accesses under the lock."""
        async with self.lock:
            await cell.set(await cell + 1)
            await cell


def lab() -> tuple[World, Lab]:
    world = World("reduction")
    return world, Lab(world)


async def careful(lab: Lab) -> None:
    await lab.section(lab.full)


async def reads(lab: Lab) -> None:
    async with lab.lock:
        await lab.raced
        await lab.raced


async def writes(lab: Lab) -> None:
    await lab.section(lab.raced)


async def marks(lab: Lab) -> None:
    async with lab.lock:
        await lab.full
        await mark("here")
        await lab.full.set(1, event=Goal("here"))


async def looks_in(lab: Lab) -> None:
    await lab.full


async def takes_by_force(lab: Lab) -> None:
    await lab.lock.update(lambda owner: (owner, owner))


async def goes_round(lab: Lab) -> None:
    async with lab.lock:
        while await lab.full < 5:
            await lab.full.set((await lab.full + 1) % 3)


async def steps(lab: Lab) -> None:
    await lab.free.set(1)
    await lab.free.set(2)


Program = Callable[[Lab], Any]


def states_of(*programs: Program, reduce: bool, kind: TaskKind = TaskKind.FOREGROUND) -> Result:
    world, shared = lab()
    for number, program in enumerate(programs):
        last = number == len(programs) - 1
        world.task(f"{number}", program, shared, kind=kind if last else TaskKind.FOREGROUND)
    return search(world, reduce=reduce, shortest=False, stop_at_first=False)


@pytest.mark.parametrize(
    ("program", "states"),
    [
        (careful, 3),  # to acquire, to release, ended
        (reads, 3),
        (writes, 4),  # the write of a write-guarded cell stays
        (marks, 5),  # the two events stay
    ],
)
def test_what_is_run_through(program: Program, states: int) -> None:
    assert states_of(program, reduce=True).states == states


def test_a_task_without_a_lock_does_not_run_on() -> None:
    assert states_of(steps, reduce=True).states == 3


@pytest.mark.parametrize("other", [looks_in, takes_by_force])
def test_a_broken_guard_takes_the_cell_out(other: Program) -> None:
    full, reduced = (states_of(careful, other, reduce=reduce) for reduce in (False, True))
    assert reduced.states == full.states
    assert contents(reduced) == contents(full)


def test_the_search_starts_over_when_a_guard_breaks_late() -> None:
    async def looks_in_late(lab: Lab) -> None:
        for _ in range(6):
            await lab.free
        await lab.full

    full, reduced = (states_of(careful, looks_in_late, reduce=reduce) for reduce in (False, True))
    assert reduced.states == full.states


class Watcher(Monitor):
    """Looks at the guarded cell at each event."""

    name = "watcher"
    events = (Goal,)

    def __init__(self, cell: Cell[int]) -> None:
        self.cell = cell

    def initial(self) -> int:
        return 0

    def on_event(self, state: int, event: Event, step: Step, view: View) -> Any:
        if view[self.cell] == 1:
            return state, (Finding("watcher/one", "in the middle", "", ""),)
        return state, ()


async def up_and_down(lab: Lab) -> None:
    async with lab.lock:
        await lab.full.set(1)
        await lab.full.set(0)


async def says(lab: Lab) -> None:
    await mark("here")


def test_a_monitor_that_looks_inside_sees_all() -> None:
    world, shared = lab()
    world.task("0", up_and_down, shared)
    world.task("1", says, shared)
    world.monitors.append(Watcher(shared.full))
    assert search(world, reduce=True, shortest=False).verdict is Verdict.VIOLATED


class Peeks(Monitor):
    """Objects to an access that is published while the free cell is 1."""

    name = "peeks"
    sees_pending = True

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def on_pending(self, task: Task, op: Op, view: View) -> tuple[Finding, ...]:
        if op.cell is not self.lab.full or not op.writes or view[self.lab.free] != 1:
            return ()
        return (Finding("peeks/one", task.name, "", ""),)


@pytest.mark.parametrize("reduce", [False, True])
def test_a_monitor_of_published_accesses_looks_at_what_others_change(reduce: bool) -> None:
    world, shared = lab()
    world.task("0", careful, shared)
    world.task("1", steps, shared)
    world.monitors.append(Peeks(shared))
    result = search(world, reduce=reduce, shortest=False)
    assert result.verdict is Verdict.VIOLATED
    replays(world, result)


def test_going_round_inside_the_lock_ends_the_search_and_is_a_livelock() -> None:
    result = states_of(goes_round, steps, reduce=True)
    assert [finding.code for finding in result.findings] == ["livelock/inescapable"]


@pytest.mark.parametrize("kind", list(TaskKind))
def test_background_tasks_are_caught_in_the_middle(kind: TaskKind) -> None:
    full, reduced = (
        states_of(steps, careful, reduce=reduce, kind=kind) for reduce in (False, True)
    )
    assert contents(reduced) == contents(full)
    assert (reduced.states < full.states) is (kind in (TaskKind.FOREGROUND, TaskKind.EVENTUAL))


def test_optional_tasks_act_while_somebody_else_can() -> None:
    """The task's last guarded access leaves it waiting: then the optional one may do no more."""

    async def waits(lab: Lab) -> None:
        async with lab.lock:
            await lab.full.set(1)
            await lab.free.cas(7, 8)
            await lab.full.set(2)
            await lab.lock.acquire()

    full, reduced = (
        states_of(waits, steps, reduce=reduce, kind=TaskKind.OPTIONAL) for reduce in (False, True)
    )
    assert contents(reduced) == contents(full)
