"""Store buffers in the searches against a second x86-TSO machine, on random tiny worlds."""

from functools import cache

import pytest

from tests.search.brute import Found, enumerate_all
from tests.search.brute_tso import TsoExecution
from tests.search.random_worlds import random_tso_world
from vmm.engine.tso import add_store_buffers
from vmm.search.reference import search

SEEDS, SEEDS_SLOW = range(12), range(12, 2000)
PREFIXES_MAX = 4000


@cache
def enumerated(seed: int) -> Found | None:
    """The same for every search."""
    return enumerate_all(random_tso_world(seed)[0], PREFIXES_MAX, TsoExecution)


def compare_random(seed: int) -> None:
    found = enumerated(seed)
    if found is None:
        return
    world, source = random_tso_world(seed)
    add_store_buffers(world)
    result = search(world, stop_at_first=False)
    terminal = {tuple(sorted(f"{n}={v!r}" for n, v in c.items())) for c in result.terminal}
    hint = f"seed {seed}\n{source}"
    assert terminal == found.terminal, hint
    assert bool(result.deadlocks) == bool(found.deadlocks), hint


@pytest.mark.parametrize("seed", SEEDS)
def test_random_world(seed: int) -> None:
    compare_random(seed)


@pytest.mark.slow
def test_many_random_worlds() -> None:
    for seed in SEEDS_SLOW:
        compare_random(seed)
