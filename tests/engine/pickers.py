"""The two pickers that the tests of the engine need: one by a seed, one by a schedule."""

from collections.abc import Sequence
from random import Random

from vmm.engine.ops import Op
from vmm.engine.schedule import Schedule


class Seeded:
    """Any enabled task, any way out."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        return self.random.choice(enabled)

    def branch(self, count: int) -> int:
        return self.random.randrange(count)


class Replayed:
    """A schedule to the letter; IndexError where it ends."""

    every_step = True

    def __init__(self, schedule: Schedule) -> None:
        self.tasks = list(schedule.tasks)
        self.branches = list(schedule.branches)

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        task = self.tasks.pop(0)
        assert task in enabled
        return task

    def branch(self, count: int) -> int:
        branch = self.branches.pop(0)
        assert branch < count
        return branch
