"""The reference search against brute force, on random tiny worlds."""

from collections import Counter
from functools import cache

import pytest

from tests.search.brute import Found, enumerate_all
from tests.search.random_worlds import random_world
from tests.search.worlds import two_locks
from vmm.engine.capture import close
from vmm.engine.ops import Op
from vmm.engine.world import World
from vmm.search.reference import search

SEEDS = range(30)
PREFIXES_MAX = 4000


def compare(world: World, found: Found, hint: str) -> None:
    result = search(world, stop_at_first=False)
    terminal = {tuple(sorted(f"{n}={v!r}" for n, v in c.items())) for c in result.terminal}
    assert terminal == found.terminal, hint
    assert bool(result.deadlocks) == bool(found.deadlocks), hint
    assert {name for name, reached in result.goals.items() if reached} == found.goals, hint
    if found.first_deadlock is not None:
        assert result.schedule is not None
        assert len(result.schedule.tasks) == found.first_deadlock, hint


@cache
def enumerated(seed: int) -> Found | None:
    """The same for every search."""
    return enumerate_all(random_world(seed)[0], PREFIXES_MAX)


def compare_random(seed: int) -> None:
    world, source = random_world(seed)
    found = enumerated(seed)
    if found is not None:
        compare(world, found, f"seed {seed}\n{source}")


@pytest.mark.parametrize("seed", SEEDS)
def test_random_world(seed: int) -> None:
    compare_random(seed)


@pytest.mark.slow
def test_many_random_worlds() -> None:
    for seed in range(SEEDS.stop, 5000):
        compare_random(seed)


def test_two_locks() -> None:
    world = two_locks()
    found = enumerate_all(world, PREFIXES_MAX)
    assert found is not None
    compare(world, found, world.name)


def test_random_worlds_try_everything() -> None:
    kinds: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    stuck = 0
    for seed in SEEDS:
        world, _ = random_world(seed)
        for task in world.tasks:
            tasks[task.kind.value] += 1
            kinds.update([op.kind for op in _first_ops(world, task.index)])
        stuck += bool(search(world).deadlocks)
    assert len(tasks) == 4
    assert {"read", "write", "cas", "update", "acquire", "wait", "choose", "mark"} <= set(kinds)
    assert 10 < stuck < len(SEEDS) - 10


def _first_ops(world: World, task: int) -> list[Op]:
    """The first op of a task."""
    program = world.tasks[task].start()
    try:
        return [program.send(None)]
    except StopIteration:
        return []
    finally:
        close(program)
