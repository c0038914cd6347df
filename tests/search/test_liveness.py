"""Livelocks: small worlds by hand, and random ones against brute force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from tests.search.brute_rounds import all_states, goes_round
from tests.search.random_loops import looping_world
from vmm.engine.cells import Cell
from vmm.engine.events import Goal
from vmm.engine.hosts import HOSTS, driver
from vmm.engine.ops import choose, mark, wait_until
from vmm.engine.rwlock import make_rwlock
from vmm.engine.schedule import Origin, Schedule
from vmm.engine.task import TaskKind
from vmm.engine.trace import Ending
from vmm.engine.world import World
from vmm.errors import Diverged
from vmm.search import exhaustive, reference
from vmm.search.liveness import components
from vmm.search.replay import ReplayedRun
from vmm.search.result import Result
from vmm.strategies.recorded import RecordedPicker

SEEDS = range(80)
STATES_MAX = 250
CODES = (None, "deadlock/stuck", "livelock/inescapable", "livelock/fair")
SEARCHES: tuple[Callable[..., Result], ...] = (
    reference.search,
    exhaustive.search,
    partial(exhaustive.search, reduce=True),
)


def compare(seed: int) -> str | None:
    """The searches find what brute force finds; gives the code."""
    world, source = looping_world(seed)
    graph = all_states(world, STATES_MAX)
    if graph is None:
        return "too large"
    expected, first = graph.verdict()
    for search in SEARCHES:
        world, _ = looping_world(seed)
        result = search(world)
        hint = f"seed {seed} {search} {result.findings}\n{source}"
        assert [finding.code for finding in result.findings] == ([expected] if expected else []), (
            hint
        )
        if expected is None and search is not SEARCHES[-1]:
            counts = len(graph.depths), len(graph.steps)
            assert (result.states, result.transitions) == counts, hint
        elif expected is not None and expected.startswith("livelock/"):
            assert result.schedule is not None
            assert result.schedule.repeats_from == first, hint
            assert first is None or goes_round(world, result.schedule), hint
    return expected


@pytest.mark.parametrize("first", range(0, len(SEEDS), 20))
def test_random_worlds(first: int) -> None:
    for seed in range(first, first + 20):
        compare(seed)


@pytest.mark.slow
def test_many_random_worlds() -> None:
    found = Counter(compare(seed) for seed in range(SEEDS.stop, 3000))
    assert all(found[code] > 50 for code in CODES), found


# --- by hand ---


def of(build: Callable[[World], None], *goals: str) -> Result:
    """What both searches find in a world, which is the same."""
    found = []
    for search in SEARCHES[:2]:
        world = World()
        world.goals = goals
        build(world)
        found.append(search(world))
    assert (found[0].findings, found[0].schedule) == (found[1].findings, found[1].schedule)
    if found[1].schedule is not None and found[1].schedule.repeats_from is not None:
        replays_on_every_host(build, goals, found[1])
    return found[1]


def code(result: Result) -> str | None:
    return result.findings[0].code if result.findings else None


def replays_on_every_host(
    build: Callable[[World], None], goals: tuple[str, ...], result: Result
) -> None:
    """Live runs close the same round and say the same, as far as a run can."""
    schedule = result.schedule
    assert schedule is not None
    for host in HOSTS:
        world = World()
        world.goals = goals
        build(world)
        run = ReplayedRun(
            world,
            RecordedPicker(schedule),
            step_budget=len(schedule.tasks),
            repeats_from=schedule.repeats_from,
        )
        outcome = driver(host)(run)
        assert outcome.ending is Ending.FINDING
        assert [found.code for found in outcome.findings] == ["livelock/fair"]
        assert outcome.findings == result.findings or code(result) == "livelock/inescapable"
        assert run.recorded(Origin("it", "", {}, (), None), outcome).schedule == schedule


def polite(world: World) -> None:
    """Each of two raises its flag, and lowers it again if the other one has raised his."""
    flags = world.cell("left", 0), world.cell("right", 0)

    async def enters(mine: Cell[int], other: Cell[int]) -> None:
        await mine.set(1)
        while await other:
            await mark("gives way")
            await mine.set(0)
            await mine.set(1)
        await mine.set(0)

    world.task("left", enters, flags[0], flags[1])
    world.task("right", enters, flags[1], flags[0])


def test_two_that_always_give_way() -> None:
    result = of(polite)
    (finding,) = result.findings
    assert finding.code == "livelock/fair"
    assert "left goes round" in finding.message
    assert "right goes round" in finding.message
    assert result.schedule is not None
    assert set(result.schedule.tasks[result.schedule.repeats_from :]) == {0, 1}


def test_a_goal_is_progress() -> None:
    assert code(of(polite, "gives way")) is None
    assert code(of(polite, "something else")) == "livelock/fair"


def test_to_pass_over_who_can_always_step_is_not_fair() -> None:
    def build(world: World) -> None:
        flag = world.cell("flag", 0)

        async def spins() -> None:
            while not await flag:
                pass

        async def sets() -> None:
            await flag.set(1)

        world.task("spins", spins)
        world.task("sets", sets)

    assert code(of(build)) is None


def contended(world: World, *, queued: bool) -> None:
    """One takes a lock again and again until another one, which needs it too, has said so."""
    lock, word, done = world.lock("lock"), world.cell("word", 0), world.cell("done", 0)

    async def take() -> None:
        if queued:
            await lock.acquire()
        else:
            while not await word.cas(0, 1):
                await wait_until(word, lambda value: value == 0)

    async def give_back() -> None:
        await (lock.release() if queued else word.set(0))

    async def polls() -> None:
        while not await done:
            await take()
            await give_back()

    async def finishes() -> None:
        await take()
        await done.set(1)
        await give_back()

    world.task("polls", polls)
    world.task("finishes", finishes)


def test_locks_have_queues_and_spinning_on_a_word_has_none() -> None:
    assert code(of(partial(contended, queued=True))) is None
    result = of(partial(contended, queued=False))
    assert code(result) == "livelock/fair"
    assert "finishes waits for word" in result.findings[0].message


def test_readers_that_come_one_after_another_do_not_keep_a_writer_out() -> None:
    """The lock is never free for it, but it is before the readers that come later."""

    def build(world: World) -> None:
        lock, done = make_rwlock(world, "lock"), world.cell("done", 0)

        async def reads() -> None:
            while not await done:
                await lock.acquire_shared()
                await lock.release_shared()

        async def writes() -> None:
            async with lock:
                await done.set(1)

        world.task("reads", reads)
        world.task("reads too", reads)
        world.task("writes", writes)

    assert code(of(build)) is None


def test_what_is_left_when_nobody_is_overtaken_is_judged_again() -> None:
    """Two spin on each other's word, with the lock or without, while a third waits for it."""

    def build(world: World) -> None:
        lock = world.lock("lock")
        flags = world.cell("left", 0), world.cell("right", 0)

        async def enters(mine: Cell[int], other: Cell[int]) -> None:
            await mine.set(1)
            while await other:
                if await choose(2):
                    async with lock:
                        await mine.set(0)
                await mine.set(1)
            await mine.set(0)

        async def waits() -> None:
            async with lock:
                await mark("had it")

        world.task("left", enters, flags[0], flags[1])
        world.task("right", enters, flags[1], flags[0])
        world.task("waits", waits)

    result = of(build)
    assert code(result) == "livelock/fair"
    assert result.schedule is not None
    assert "acquire" not in result.findings[0].message.replace("waits to acquire", "")


@pytest.mark.parametrize("kind", [TaskKind.DAEMON, TaskKind.EVENTUAL])
def test_who_waits_while_others_loop_is_stuck(kind: TaskKind) -> None:
    def build(world: World) -> None:
        flag, other = world.cell("flag", 0), world.cell("other", 0)

        async def waits() -> None:
            await wait_until(flag, bool)

        async def loops() -> None:
            while True:
                await other.update(lambda value: (1 - value, value), event=Goal("round"))

        world.task("waits", waits)
        world.task("loops", loops, kind=kind)

    assert code(of(build, "round")) == "livelock/inescapable"


def test_a_daemon_alone_is_none_and_neither_is_what_goes_on_at_the_end() -> None:
    def build(world: World) -> None:
        a, b = world.cell("a", 0), world.cell("b", 0)

        async def ends() -> None:
            await a.set(1)

        async def loops() -> None:
            while True:
                await b.update(lambda value: (1 - value, value))

        world.task("ends", ends)
        world.task("loops", loops, kind=TaskKind.DAEMON)

    assert code(of(build)) is None


@pytest.mark.parametrize("has_way_out", [False, True])
def test_an_optional_step_saves_nobody(has_way_out: bool) -> None:
    """A stale TLB entry: an eviction would end the loop, and so may somebody who must act."""

    def build(world: World) -> None:
        tlb = world.cell("tlb", 1)

        async def uses() -> None:
            while await tlb:
                pass

        async def evicts() -> None:
            await tlb.set(0)

        kind = TaskKind.EVENTUAL if has_way_out else TaskKind.OPTIONAL
        world.task("guest", uses)
        world.task("eviction", evicts, kind=kind)

    assert code(of(build)) == (None if has_way_out else "livelock/inescapable")


def test_components() -> None:
    following = {1: [2], 2: [3, 9], 3: [1], 4: [4], 5: [6], 6: [7], 7: [1]}
    found = sorted(map(sorted, components(following)))
    assert found == [[1, 2, 3], [4]]


@pytest.mark.parametrize("length", [1, 5000])
def test_components_of_long_chains(length: int) -> None:
    following = {n: [n + 1] for n in range(length)} | {length: [0]}
    assert [len(part) for part in components(following)] == [length + 1]


def test_a_round_that_does_not_close_has_diverged() -> None:
    world = World()
    polite(world)
    run = ReplayedRun(world, RecordedPicker(Schedule(b"\0\0\0")), step_budget=2, repeats_from=1)
    with pytest.raises(Diverged, match="the steps 2 to 2 do not lead back"):
        driver("direct")(run)


@pytest.mark.parametrize(
    ("build", "tasks", "first"),
    [(polite, (0, 1, *[0] * 10), 8), (partial(contended, queued=True), (0,) * 12, 9)],
)
def test_a_round_that_passes_somebody_over_is_no_finding(
    build: Callable[[World], None], tasks: tuple[int, ...], first: int
) -> None:
    world = World()
    build(world)
    schedule = Schedule(bytes(tasks))
    run = ReplayedRun(world, RecordedPicker(schedule), step_budget=12, repeats_from=first)
    outcome = driver("direct")(run)
    assert (outcome.ending, outcome.findings) == (Ending.STEP_BUDGET, ())
