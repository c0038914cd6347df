"""The lock order: what a lock may be taken inside of, and nothing else."""

from __future__ import annotations

import pytest

from vmm.engine.cells import Lock
from vmm.engine.world import World
from vmm.monitors.lock_order import SPEC
from vmm.search.exhaustive import search


def nests(outer: str, inner: str) -> tuple[str, ...]:
    """What is found when one task nests two of: a first, b inside of it, c said to be inside of b.

    ``d`` says that it is outside of ``a``, which was made before it, and ``e`` says nothing.
    """
    world = World()
    a = world.lock("a")
    b = world.lock("b", inside=(a,))
    locks: dict[str, Lock] = {"a": a, "b": b, "c": world.lock("c", inside=(b,))}
    locks["d"] = world.lock("d", outside=(a,))
    locks["e"] = world.lock("e")

    async def task() -> None:
        async with locks[outer]:
            pass
        async with locks[outer], locks[inner]:
            pass

    world.task("t", task)
    monitor = SPEC.build(world, None)
    assert monitor is not None
    world.monitors.append(monitor)
    return tuple(finding.message for finding in search(world).findings)


@pytest.mark.parametrize(("outer", "inner"), ["ab", "bc", "ac", "da", "db", "dc", "ae", "ea"])
def test_the_order_may_be_kept(outer: str, inner: str) -> None:
    assert nests(outer, inner) == ()


@pytest.mark.parametrize(("outer", "inner"), ["ba", "cb", "ca", "ad", "bd", "cd"])
def test_any_other_order_is_found_though_nobody_else_runs(outer: str, inner: str) -> None:
    assert nests(outer, inner) == (f"t is about to acquire {inner} while it holds {outer}",)


def test_without_an_order_there_is_nothing_to_judge() -> None:
    world = World()
    world.lock("a")
    world.lock("b")
    assert SPEC.build(world, None) is None
