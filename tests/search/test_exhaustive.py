"""The exhaustive search against the reference search, and what it has beyond it."""

from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

import pytest

from tests.engine.pickers import Replayed
from tests.search.random_worlds import random_world
from tests.search.worlds import SCENARIOS, cells, notifier_retry, two_locks
from vmm.engine.cells import Cell, Lock
from vmm.engine.events import AuditPoint, Event, Goal
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.live import Run
from vmm.engine.monitor import Audit, Finding, Monitor, Step, View
from vmm.engine.ops import Op, Read, Release, choose
from vmm.engine.task import Task
from vmm.engine.world import World
from vmm.scenario.experiment import Experiment, prepare
from vmm.scenario.loading import load
from vmm.search import exhaustive, reference
from vmm.search.exhaustive import search
from vmm.search.result import Result, Stop, Verdict

SEEDS = range(12)


def told(result: Result) -> Result:
    """All that two searches say, but for budgets, hashes and speed."""
    return replace(result, stop=None, collision_bound=0.0, engine="", jobs=1, startup_seconds=0.0)


def replays(world: World, result: Result) -> None:
    """The counterexample leads a live run to the same findings, unless it is a livelock."""
    if result.schedule is None or result.findings[0].code == "livelock/inescapable":
        return
    outcome = driver("direct")(Run(world, Replayed(result.schedule)))
    assert outcome.findings == result.findings
    assert outcome.tasks == result.schedule.tasks


# --- random worlds with random monitors ---


class Watches(Monitor):
    """What it reads depends on what it has read, its state on both; now and then it complains."""

    name = "watches"
    events = (Goal,)

    def __init__(self, world: World, random: Random) -> None:
        self.cells = [cell for cell in world.cells if cell.name in ("c0", "c1", "c2")]
        arrays = [cell.array for cell in world.cells if cell.array is not None]
        self.sparse = arrays[0] if arrays else None
        self.mood = random.randrange(12)

    def initial(self) -> int:
        return 0

    def on_event(self, state: int, event: Event, step: Step, view: View) -> Any:
        assert isinstance(event, Goal)
        first = view[self.cells[self.mood % 3]]
        second = view[self.cells[first % 3]] if first != state else 0
        changed = sum([int(change.new != change.old) for change in step.changes])
        more = 0 if self.sparse is None else sum([value for _, value in view.items(self.sparse)])
        sum_ = first + second + more + changed + state + self.mood
        found = Finding("watches/mood", f"{event} {first} {second} {more}", "", "")
        return sum_ % 3, (found,) if sum_ % 7 == 5 else ()


class Peeks(Monitor):
    name = "peeks"
    sees_pending = True

    def __init__(self, world: World, random: Random) -> None:
        self.other = random.choice(world.cells)
        self.mood = random.randrange(4)

    def on_pending(self, task: Task, op: Op, view: View) -> tuple[Finding, ...]:
        if op.cell is None or not op.writes or view[op.cell] != self.mood:
            return ()
        if view[self.other] != self.mood - 1:
            return ()
        return (Finding("peeks/mood", f"{task.name} {op.describe()}", "", ""),)


class Meets(Monitor):
    """Counts who else is about to use a cell, also if that is nobody."""

    name = "meets"
    sees_pending = True

    def __init__(self, world: World, random: Random) -> None:
        self.cell = random.choice(world.cells[:4])
        self.writes = bool(random.randrange(2))
        self.mood = random.randrange(6)

    def on_pending(self, task: Task, op: Op, view: View) -> tuple[Finding, ...]:
        if op.writes is not self.writes:
            return ()
        others = view.accesses(self.cell, but=task)
        kinds = sorted([other.kind for _, other in others])
        if len(others) + view[self.cell] != self.mood + ("write" not in kinds):
            return ()
        return (Finding("meets/mood", f"{task.name} {op.describe()} {kinds}", "", ""),)


class Sums(Audit):
    name = "sums"
    events = (AuditPoint,)

    def __init__(self, world: World, random: Random) -> None:
        self.cells = random.sample(world.cells, 3)
        self.mood = random.randrange(2, 7)

    def initial(self) -> tuple[int, ...]:
        return ()

    def on_event(self, state: tuple[int, ...], event: Event, step: Step, view: View) -> Any:
        return (*state, view[self.cells[0]])[-2:], ()

    def full(self, state: tuple[int, ...], view: View) -> tuple[Finding, ...]:
        held = sum([view[cell] for cell in self.cells]) + sum(state)
        return (Finding("sums/too-much", str(held), "", ""),) if held == self.mood else ()


def odd(value: int) -> Goal | None:
    return Goal("odd") if value % 2 else None


def judged_world(seed: int) -> tuple[World, str]:
    """A random world with monitors."""
    world, source = random_world(seed)
    return judged(world, seed), source


def judged(world: World, seed: int) -> World:
    """The world with random monitors: locks are audited, and reads of c0 say something."""
    random = Random(seed)
    for cell in world.cells:
        if isinstance(cell, Lock):
            cell.release_op = Release(cell, AuditPoint("released"))
    world.cells[0].read_op = Read(world.cells[0], odd)
    world.monitors += [made(world, random) for made in (Watches, Peeks, Sums, Meets)]
    return world


def compare_random(seed: int) -> set[str]:
    codes = set()
    for build in (random_world, judged_world):
        for stop_at_first in (True, False):
            world, source = build(seed)
            expected = reference.search(world, stop_at_first=stop_at_first)
            world, _ = build(seed)
            result = search(world, stop_at_first=stop_at_first)
            assert told(result) == told(expected), f"seed {seed}\n{source}"
            replays(world, result)
            codes |= {finding.code for finding in result.findings}
    return codes


@pytest.mark.parametrize("first", range(0, len(SEEDS), 6))
def test_random_worlds(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + 6):
        monkeypatch.setattr(exhaustive, "CHUNK", 3 if seed % 2 else 1000)
        compare_random(seed)


@pytest.mark.slow
def test_many_random_worlds() -> None:
    codes = set()
    for seed in range(SEEDS.stop, 2000):
        codes |= compare_random(seed)
    assert codes >= {"deadlock/stuck", "meets/mood", "peeks/mood", "sums/too-much", "watches/mood"}


# --- calibration and scenarios ---


def test_calibration() -> None:
    result = search(notifier_retry(3, guard=True))
    assert (result.states, result.transitions, result.terminal_states) == (84_233, 248_494, 27)
    assert result.collision_bound == 84_233**2 / 2**65


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_calibration_of_four(seed: int) -> None:
    result = search(notifier_retry(4, guard=True), seed=seed)
    assert (result.verdict, result.states, result.transitions) == (
        Verdict.CLEAN,
        2_134_569,
        7_854_895,
    )


QUICK = ("emulated_write_order", "stale_gpte", "tlb_shootdown")
FILES = sorted(SCENARIOS.rglob("*.py"))


def small(name: str, *bugs: str) -> Experiment:
    """A scenario in its small form."""
    (path,) = [file for file in FILES if file.stem == name]
    loaded = load(str(path))
    params = {key: str(value) for key, value in loaded.scenario.small.items()}
    return prepare(loaded, params=params, bugs=bugs)


@cache
def expected(name: str, *bugs: str) -> Result:
    return reference.search(small(name, *bugs).world(), witnesses=False)


def compare(experiment: Experiment, expected: Result) -> Result:
    world = experiment.world()
    result = search(world, witnesses=False)
    assert told(result) == told(expected)
    replays(world, result)
    return result


@pytest.mark.parametrize("name", QUICK)
def test_scenario(name: str) -> None:
    compare(small(name), expected(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem not in QUICK])
def test_larger_scenario(name: str) -> None:
    compare(small(name), expected(name))


@pytest.mark.parametrize("name", ["emulated_write_order", "stale_gpte"])
def test_bug(name: str) -> None:
    bug = name.replace("_", "-")
    result = compare(small(name, bug), expected(name, bug))
    assert result.verdict is Verdict.VIOLATED


@pytest.mark.parametrize("vcpus", [1, 2])
def test_shootdown_must_publish_the_mode_first(vcpus: int) -> None:
    (path,) = [file for file in FILES if file.stem == "tlb_shootdown"]
    params = {"vcpus": str(vcpus), "publish_first": "0"}
    experiment = prepare(load(str(path)), params=params)
    result = compare(experiment, reference.search(experiment.world(), witnesses=False))
    assert [finding.code for finding in result.findings] == ["tlb-shootdown/freed-frame"]


def test_counterexample_of_a_scenario_replays_on_every_host() -> None:
    world = small("stale_gpte", "stale-gpte").world()
    result = search(world, witnesses=False)
    assert result.schedule is not None
    for host in HOSTS:
        outcome = driver(host)(Run(world, Replayed(result.schedule)))
        assert outcome.findings == result.findings, host


# --- rows that grow ---


async def counts(cell: Cell[int], rounds: int) -> None:
    for number in range(rounds):
        await cell.set(number)


def test_more_values_than_a_byte_holds() -> None:
    def world() -> World:
        made = World()
        (a, b) = cells(made, 0, 0)
        made.task("one", counts, a, 300)
        made.task("two", counts, b, 3)
        return made

    assert told(search(world())) == told(reference.search(world()))


def test_choice_of_many_ways() -> None:
    def world() -> World:
        made = World()
        (a,) = cells(made, 0)

        async def chooses() -> None:
            await a.set(await choose(400))

        made.task("it", chooses)
        return made

    result = search(world())
    assert told(result) == told(reference.search(world()))
    assert (result.states, result.terminal_states) == (801, 400)


def test_columns_appear_in_the_middle_of_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    def world() -> World:
        made = World()
        array = made.array("sparse", 0)

        async def walks(number: int) -> None:
            for key in range(3):
                await array[number].set(1 + await array[1 - number] + await array[key])

        made.task("one", walks, 0)
        made.task("two", walks, 1)
        return made

    monkeypatch.setattr(exhaustive, "CHUNK", 2)
    assert told(search(world())) == told(reference.search(world()))


# --- hashes and budgets ---


def test_another_seed_gives_the_same_result() -> None:
    first, second = [search(notifier_retry(2, guard=False), seed=seed) for seed in (1, 2)]
    assert told(first) == told(second)


def test_memory_budget_ends_a_search() -> None:
    result = search(notifier_retry(3, guard=True), max_bytes=1 << 20)
    assert (result.verdict, result.stop) == (Verdict.INCOMPLETE, Stop.MEMORY)
    assert result.states > 1000


def test_result_says_why_the_search_ended() -> None:
    def interrupt(states: int, waiting: int) -> None:
        raise KeyboardInterrupt

    assert search(two_locks()).stop is Stop.FINDING
    assert search(notifier_retry(1, guard=True)).stop is None
    assert search(notifier_retry(1, guard=True), max_states=100).stop is Stop.STATES
    assert search(notifier_retry(1, guard=True), on_progress=interrupt).stop is Stop.INTERRUPT


def test_progress_is_told_within_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustive, "CHUNK", 10)
    states: list[int] = []
    search(notifier_retry(2, guard=True), on_progress=lambda now, _: states.append(now))
    assert len(states) > 100
    assert states == sorted(states)
