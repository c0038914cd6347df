"""Learned tables against live coroutines, on random tiny worlds."""

import pytest

from tests.engine.pickers import Seeded
from tests.search.random_worlds import random_world
from vmm.engine.automaton import ENDED, Automaton, Values
from vmm.engine.live import Run


@pytest.mark.parametrize("seed", range(40))
def test_tables_say_what_live_coroutines_do(seed: int) -> None:
    world, source = random_world(seed)
    values = Values(world.registry)
    tables = [Automaton(task, values, world) for task in world.tasks]
    for run_seed in range(3):
        run = Run(world, Seeded(run_seed), record=True)
        run.begin()
        locals_ = [table.start for table in tables]
        while (task := run.next()) is not None:
            table, local, op = tables[task], locals_[task], run.pending[task]
            assert op is not None
            assert table.ops[local].describe() == op.describe(), source
            found = tuple([values.intern(run.memory[c.index]) for c in op.cells])
            run.step(task)
            step = run.trace[-1]
            edge = table.expand(local, found)[step.branch or 0]
            assert (edge.branch, edge.result, edge.events) == (
                step.branch,
                step.result,
                step.events,
            )
            assert [(c.cell.index, values.intern(c.new)) for c in step.changes] == [*edge.writes]
            assert (edge.following == ENDED) == (run.pending[task] is None), source
            locals_[task] = edge.following
        run.close()
    for table in tables:
        table.close()
