"""A recorded schedule, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from vmm.engine.ops import Op
from vmm.engine.schedule import Schedule
from vmm.errors import Diverged
from vmm.strategies import Strategy


class RecordedPicker:
    """Takes the recorded choices, or says where they cannot be taken."""

    __slots__ = ("_branches_taken", "_schedule", "_steps")

    every_step = True

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._steps = 0
        self._branches_taken = 0

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        """The recorded task. Errors: it is not enabled, or the record is at its end."""
        step, tasks = self._steps, self._schedule.tasks
        self._steps += 1
        if step >= len(tasks):
            raise Diverged(
                f"the recorded schedule ends after {len(tasks)} steps, but the run goes on "
                f"with task {_numbers(enabled)} enabled",
                step + 1,
            )
        if tasks[step] not in enabled:
            raise Diverged(
                f"step {step + 1} was recorded for task {tasks[step]}, "
                f"but only {_numbers(enabled)} could step",
                step + 1,
            )
        return tasks[step]

    def branch(self, count: int) -> int:
        """The recorded way out. Errors: there is none, or not as many ways."""
        taken, branches = self._branches_taken, self._schedule.branches
        self._branches_taken += 1
        if taken >= len(branches) or branches[taken] >= count:
            wanted = f"way {branches[taken]}" if taken < len(branches) else "no choice"
            raise Diverged(
                f"step {self._steps} is a choice of {count} ways, but {wanted} was recorded there",
                self._steps,
            )
        return branches[taken]


def _numbers(tasks: Sequence[int]) -> str:
    return " or ".join(map(str, tasks))


SPEC = Strategy(
    title="the choices of a recorded schedule (--schedule TOKEN)",
    source="record and replay of choices, as in Shuttle and Fray",
    make=None,
)
