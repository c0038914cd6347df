import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from vmm.engine import automaton as module
from vmm.engine.automaton import ENDED, SAMPLED, Automaton, Edge, Values
from vmm.engine.capture import Registry
from vmm.engine.cells import Cell, CellArray
from vmm.engine.events import Goal
from vmm.engine.ops import Choose, Update, atomically, choose, mark, trap, wait_until
from vmm.engine.world import World
from vmm.errors import CaptureRefused, ForeignAwait, Nondeterminism, UsageError

SENT: list[int] = []
HIDDEN: dict[object, int] = {}


class Learner:
    """One task of a world with its automaton, on values instead of ids."""

    def __init__(self, world: World, *, witnesses: bool = True) -> None:
        self.world = world
        self.values = Values(world.registry)
        self.automaton = Automaton(world.tasks[0], self.values, world, witnesses=witnesses)

    def expand(self, local: int, *values: object) -> tuple[Edge, ...]:
        return self.automaton.expand(local, tuple([self.values.intern(v) for v in values]))

    def edge(self, local: int, *values: object) -> Edge:
        (edge,) = self.expand(local, *values)
        return edge

    def walk(self, *rounds: tuple[object, ...]) -> list[str]:
        """Take one edge for each; gives the ops on the way."""
        local, ops = self.automaton.start, []
        for values in rounds:
            ops.append(self.automaton.ops[local].describe())
            local = self.edge(local, *values).following
        return [*ops, self.automaton.ops[local].describe() if local != ENDED else "end"]


@pytest.fixture
def learn() -> Iterator[Callable[..., Learner]]:
    made: list[Learner] = []

    def make(program: Callable[..., Any], *args: object, **options: Any) -> Learner:
        world = next((arg for arg in args if isinstance(arg, World)), None) or World()
        world.task("it", program, *[arg for arg in args if arg is not world])
        made.append(Learner(world, **options))
        return made[-1]

    yield make
    for learner in made:
        learner.automaton.close()
    SENT.clear()
    HIDDEN.clear()


Learn = Callable[..., Learner]


def cells(world: World, *initial: object) -> list[Cell[Any]]:
    return [world.cell(f"c{number}", value) for number, value in enumerate(initial)]


# --- edges ---


async def moves_on(a: Cell[int], b: Cell[int]) -> None:
    await b.set(await a + 1)


def test_edge_fuses_effect_and_next_local_state(learn: Learn) -> None:
    world = World()
    it = learn(moves_on, world, *cells(world, 0, 0))
    read = it.edge(it.automaton.start, 4)
    assert (read.branch, read.result, read.writes, read.events) == (None, 4, (), ())
    write = it.edge(read.following, 0)
    assert write.writes == ((1, it.values.intern(5)),)
    assert write.following == ENDED


def test_write_of_the_same_value_changes_nothing(learn: Learn) -> None:
    world = World()
    it = learn(moves_on, world, *cells(world, 0, 0))
    assert it.edge(it.edge(it.automaton.start, 4).following, 5).writes == ()


def test_equal_values_of_different_types_are_different(learn: Learn) -> None:
    world = World()
    it = learn(moves_on, world, *cells(world, 0, 0))
    integer, boolean = it.edge(it.automaton.start, 1), it.edge(it.automaton.start, True)
    assert (integer.result is True, boolean.result is True) == (False, True)
    assert integer.following == boolean.following  # both make it write 2


def test_edges_are_learned_once(learn: Learn) -> None:
    world = World()
    it = learn(counts_its_sends, world, *cells(world, 0), 3)
    for _ in range(3):
        it.walk((0,), (0,), (0,))
    assert len(SENT) == 3


def test_disabled_op_has_no_edge(learn: Learn) -> None:
    async def waits(a: Cell[int]) -> None:
        await wait_until(a, lambda value: value > 1)

    world = World()
    it = learn(waits, world, *cells(world, 0))
    assert it.expand(it.automaton.start, 1) == ()
    assert it.edge(it.automaton.start, 2).following == ENDED


def test_choice_has_an_edge_for_each_way(learn: Learn) -> None:
    async def chooses(a: Cell[int]) -> None:
        await a.set(await choose(3))

    world = World()
    it = learn(chooses, world, *cells(world, 0))
    edges = it.expand(it.automaton.start)
    assert [(edge.branch, edge.result) for edge in edges] == [(0, 0), (1, 1), (2, 2)]
    assert len({edge.following for edge in edges}) == 3


def test_several_cells_change_at_once(learn: Learn) -> None:
    async def swaps(a: Cell[int], b: Cell[int]) -> None:
        await atomically(lambda x, y: ((y, x), None), (a, b), when=lambda x, y: x != y)

    world = World()
    it = learn(swaps, world, *cells(world, 0, 0))
    edge = it.edge(it.automaton.start, 1, 2)
    assert edge.writes == ((0, it.values.intern(2)), (1, it.values.intern(1)))
    assert it.expand(it.automaton.start, 1, 1) == ()


def test_events_are_those_of_the_result(learn: Learn) -> None:
    async def says(a: Cell[int]) -> None:
        await a.read(event=lambda value: Goal("odd") if value % 2 else None)
        await mark("end")

    world = World()
    it = learn(says, world, *cells(world, 0))
    assert it.edge(it.automaton.start, 2).events == ()
    odd = it.edge(it.automaton.start, 3)
    assert odd.events == (Goal("odd"),)
    assert it.edge(odd.following).events == (Goal("end"),)


def test_program_without_ops_has_ended_at_once(learn: Learn) -> None:
    async def nothing() -> None:
        pass

    it = learn(nothing)
    assert (it.automaton.start, it.automaton.ops) == (ENDED, [])


def test_failure_of_a_task_surfaces_as_itself(learn: Learn) -> None:
    async def divides(a: Cell[int]) -> None:
        await a.set(1 // await a)

    world = World()
    it = learn(divides, world, *cells(world, 1))
    with pytest.raises(ZeroDivisionError):
        it.edge(it.automaton.start, 0)
    assert it.edge(it.automaton.start, 1).following != ENDED


# --- local states ---


async def counts_its_sends(a: Cell[int], count: int) -> None:
    for number in range(count):
        await a.set(number % 2)
        SENT.append(number)


def test_straight_line_costs_one_send_an_edge(learn: Learn) -> None:
    world = World()
    it = learn(counts_its_sends, world, *cells(world, 0), 500)
    it.walk(*[(0,)] * 500)
    assert len(SENT) == 500
    assert len(it.automaton.ops) == 500


async def branches_late(a: Cell[int], count: int) -> None:
    await counts_its_sends(a, count)
    await a.set(await a)


def test_only_a_branch_starts_again(learn: Learn) -> None:
    world = World()
    it = learn(branches_late, world, *cells(world, 0), 100)
    it.walk(*[(0,)] * 100, (1,))
    assert len(SENT) == 100
    it.walk(*[(0,)] * 100, (2,))
    assert len(SENT) == 200


def test_states_merge_when_locals_are_equal_again(learn: Learn) -> None:
    async def forgets(a: Cell[int]) -> None:
        for _ in range(2):
            value = await a
            del value
        await a.set(9)

    world = World()
    it = learn(forgets, world, *cells(world, 0))
    it.walk((1,), (1,), (0,))
    it.walk((2,), (2,), (0,))
    assert len(it.automaton.ops) == 3


def test_few_coroutines_are_kept(learn: Learn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COROUTINES_KEPT", 2)
    world = World()
    it = learn(forks, world, *cells(world, 0))
    frontier = [it.automaton.start]
    for _ in range(5):
        edges = [edge for local in frontier for edge in it.expand(local)]
        frontier = [edge.following for edge in edges]
        assert len(it.automaton._kept) <= 2
    assert frontier == [ENDED] * 32


async def forks(a: Cell[int]) -> None:
    path = []
    for _ in range(5):
        path.append(await choose(2))  # noqa: PERF401 - an op in a comprehension is another test


def test_closing_ends_what_is_kept(learn: Learn) -> None:
    async def cleans_up(a: Cell[int]) -> None:
        try:
            await a
        finally:
            SENT.append(1)
            await a.set(0)
            SENT.append(2)

    world = World()
    it = learn(cleans_up, world, *cells(world, 0))
    it.automaton.close()
    assert SENT == [1]
    assert it.edge(it.automaton.start, 5).following != ENDED  # it can start again


def test_closures_say_what_they_said_when_they_were_published(learn: Learn) -> None:
    async def rebinds(a: Cell[int]) -> None:
        step = 1
        step = await a.update(lambda value: (value + step, value + 10))

    world = World()
    it = learn(rebinds, world, *cells(world, 0))
    for start in (0, 5, 7):  # the first edge has changed `step` long before the second is learned
        assert it.edge(it.automaton.start, start).writes == ((0, it.values.intern(start + 1)),)


def test_closures_with_other_content_are_other_states(learn: Learn) -> None:
    async def adds(a: Cell[int]) -> None:
        amount = await choose(2)
        await a.update(lambda value: (value + amount, None))

    world = World()
    it = learn(adds, world, *cells(world, 0))
    first, second = [edge.following for edge in it.expand(it.automaton.start)]
    assert first != second
    assert isinstance(it.automaton.ops[first], Update)
    assert it.edge(first, 5).writes == ()
    assert it.edge(second, 5).writes == ((0, it.values.intern(6)),)


def test_cells_arrays_and_ops_may_be_kept(learn: Learn) -> None:
    async def keeps(array: CellArray[int, int], a: Cell[int]) -> None:
        here, fixed = array[4], Choose(2)
        kept = [array, here, a, fixed]
        await wait_until((a, here), lambda x, y: here is not a and x == y)
        await trap(fixed)
        await a.set(len(kept))

    world = World()
    array = world.array("sparse", 0)
    it = learn(keeps, world, array, *cells(world, 0))
    assert it.walk((1, 1)) == ["wait for c0, sparse[4]", "choose"]


def test_unawaited_op_is_refused(learn: Learn) -> None:
    async def forgets_to_await(a: Cell[int]) -> None:
        later = a.set(1)
        await a
        await later

    world = World()
    with pytest.raises(CaptureRefused, match=r"variable 'later' in function .*forgets_to_await"):
        learn(forgets_to_await, world, *cells(world, 0))


def test_sparse_cells_may_be_made_on_the_way(learn: Learn) -> None:
    async def touches(array: CellArray[int, int], a: Cell[int]) -> None:
        await array[await a].set(7)

    world = World()
    array = world.array("sparse", 0)
    it = learn(touches, world, array, *cells(world, 0))
    assert len(world.cells) == 1
    local = it.edge(it.automaton.start, 5).following
    assert [cell.name for cell in world.cells] == ["c0", "sparse[5]"]
    assert it.automaton.cells[local] == (1,)
    assert it.edge(local, 0).writes == ((1, it.values.intern(7)),)


# --- two witnesses ---


async def hides(a: Cell[int], b: Cell[int]) -> None:
    HIDDEN[sys._getframe()] = await a
    await b.set(0)
    await b.set(HIDDEN[sys._getframe()])


def test_second_history_shows_what_is_hidden(learn: Learn) -> None:
    world = World()
    it = learn(hides, world, *cells(world, 0, 0))
    one = it.edge(it.automaton.start, 1).following
    it.edge(one, 0)
    with pytest.raises(Nondeterminism, match=r"task it .* function hides .*write c1"):
        it.edge(it.automaton.start, 2)


def test_second_history_may_come_before_the_edge(learn: Learn) -> None:
    world = World()
    it = learn(hides, world, *cells(world, 0, 0))
    one, two = [it.edge(it.automaton.start, value).following for value in (1, 2)]
    assert one == two
    with pytest.raises(Nondeterminism):
        it.edge(one, 0)


def test_hidden_value_shows_however_late(learn: Learn) -> None:
    async def hides_long(a: Cell[int], b: Cell[int]) -> None:
        HIDDEN[sys._getframe()] = await a
        for _ in range(20):
            await b.set(0)
        await b.set(HIDDEN[sys._getframe()])

    world = World()
    it = learn(hides_long, world, *cells(world, 0, 0))
    it.walk((1,), *[(0,)] * 20)
    with pytest.raises(Nondeterminism):
        it.edge(it.automaton.start, 2)


def test_fresh_start_that_goes_elsewhere_is_caught(learn: Learn) -> None:
    async def counts_its_starts(a: Cell[int], b: Cell[int]) -> None:
        SENT.append(1)
        await a
        await (a if len(SENT) == 1 else b)
        await a

    world = World()
    it = learn(counts_its_starts, world, *cells(world, 0, 0))
    second = it.edge(it.automaton.start, 0).following
    it.edge(second, 0)
    with pytest.raises(Nondeterminism, match="from 'read c0' to 'read c0' or to 'read c1'"):
        it.edge(second, 1)


def test_end_that_comes_and_goes_is_caught(learn: Learn) -> None:
    async def ends_early(a: Cell[int]) -> None:
        SENT.append(1)
        await a
        if len(SENT) == 1:
            await a.set(0)
            await a

    world = World()
    it = learn(ends_early, world, *cells(world, 0))
    second = it.edge(it.automaton.start, 0).following
    third = it.edge(second, 0).following
    it.edge(third, 0)
    with pytest.raises(Nondeterminism, match="its end"):
        it.edge(third, 1)


@pytest.mark.parametrize("witnesses", [True, False])
def test_without_witnesses_some_states_are_checked_still(learn: Learn, witnesses: bool) -> None:
    async def hides_often(a: Cell[int], b: Cell[int]) -> None:
        for _ in range(SAMPLED):
            HIDDEN[sys._getframe()] = await a
            await b.set(0)
            await b.set(HIDDEN[sys._getframe()])

    world = World()
    it = learn(hides_often, world, *cells(world, 0, 0), witnesses=witnesses)
    it.walk(*[(1,), (0,), (0,)] * SAMPLED)
    with pytest.raises(Nondeterminism):
        it.walk(*[(2,), (0,), (0,)] * SAMPLED)


# --- refusals ---


def test_set_in_a_local_is_refused_by_name(learn: Learn) -> None:
    async def gathers(a: Cell[int]) -> None:
        seen = {await a}
        await a.set(len(seen))

    world = World()
    it = learn(gathers, world, *cells(world, 0))
    with pytest.raises(CaptureRefused, match=r"variable 'seen' in function .*gathers.* set"):
        it.edge(it.automaton.start, 0)


def test_mutable_value_is_refused_where_it_is_shared(learn: Learn) -> None:
    async def shares(a: Cell[Any]) -> None:
        await a.update(lambda _: ([], None))

    async def receives(a: Cell[Any]) -> None:
        await a.update(lambda _: (0, []))

    for program, where in ((shares, "cell c0"), (receives, "the result of update c0")):
        world = World()
        it = learn(program, world, *cells(world, 0))
        with pytest.raises(CaptureRefused, match=f"{where}: a list that can change"):
            it.edge(it.automaton.start, 0)


class Foreign:
    def __await__(self) -> Iterator[object]:
        yield "something else"


@pytest.mark.parametrize("awaited", [lambda: asyncio.sleep(0), Foreign])
def test_foreign_await_is_refused(learn: Learn, awaited: Callable[[], Awaitable[None]]) -> None:
    async def strays(a: Cell[int]) -> None:
        await a
        await awaited()

    world = World()
    it = learn(strays, world, *cells(world, 0))
    with pytest.raises(ForeignAwait, match=r"task it awaits a foreign \w+ at .*:\d+"):
        it.edge(it.automaton.start, 0)


def test_blind_interpreter_is_refused_in_one_line(
    learn: Learn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "self_test", lambda: "it shows nothing")
    module.require_capture.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"\Ait shows nothing\Z"):
            learn(moves_on, *cells(World(), 0, 0))
    finally:
        module.require_capture.cache_clear()


# --- values ---


def test_values_are_told_apart_by_type() -> None:
    values = Values(Registry())
    given = [1, True, 1.0, "1", (1,), (True,), None, 0, False]
    assert [values.intern(value) for value in given] == list(range(len(given)))
    assert [values.intern(value) for value in given] == list(range(len(given)))
    assert [values.value(number) for number in range(len(values))] == given
