"""What counts as a store to a guarded cell."""

from __future__ import annotations

import pytest

from vmm.engine.cells import Guard
from vmm.engine.tso import add_store_buffers
from vmm.engine.world import World
from vmm.monitors import lock_guard
from vmm.search.exhaustive import search


@pytest.mark.parametrize("buffered", [False, True])
@pytest.mark.parametrize(
    ("guard", "stores", "found"),
    [
        (Guard.EXCHANGE, False, []),
        (Guard.EXCHANGE, True, ["lock/unguarded"]),
        (Guard.WRITE, False, ["lock/unguarded"]),
    ],
)
def test_a_cmpxchg_may_race_with_the_lock_s_holder_where_the_guard_says_so(
    buffered: bool, guard: Guard, stores: bool, found: list[str]
) -> None:
    world = World()
    lock = world.lock("lock")
    cell = world.cell("spte", 0, guard=guard, lock=lock, marked=True)

    async def changes() -> None:
        if stores:
            await cell.set(1)
        else:
            await cell.cas(0, 1)

    world.task("t", changes)
    if buffered:
        add_store_buffers(world)
    made = lock_guard.SPEC.build(world, None)
    assert made is not None
    world.monitors.append(made)
    assert [finding.code for finding in search(world).findings] == found
