"""Replay: a recorded schedule runs again, and every step is held against the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vmm.engine.events import resolve
from vmm.engine.live import Run
from vmm.engine.schedule import Origin, Picker, Recorded, Schedule, check_stride, rolled, thinned
from vmm.engine.trace import Ending, Outcome, op_tag
from vmm.engine.world import World
from vmm.errors import Diverged
from vmm.search.rounds import Round

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.ops import Op

Drive = Callable[[Run], Outcome]
"""A host: drives a run to its end."""


class CheckedRun(Run):
    """A live run that keeps a check of every step."""

    repeats_from: int | None = None
    """The steps after the first ``repeats_from`` lead back to where they began."""

    def __init__(
        self,
        world: World,
        picker: Picker,
        *,
        record: bool = False,
        step_budget: int | None = None,
        incremental: bool = False,
    ) -> None:
        super().__init__(
            world, picker, record=record, step_budget=step_budget, incremental=incremental
        )
        self._rolling = 0
        self._checks = bytearray()

    def flush_records(self) -> None:
        """Check the steps recorded so far, too."""
        self.check_records()
        super().flush_records()

    def check_records(self) -> int:
        """Check the recorded steps that have no check yet; gives the check of all steps so far."""
        rolling = self._rolling
        for number, mask, code, tag, _ in self.records[len(self._checks) - len(self.chosen) :]:
            rolling = rolled(rolling, number, mask, code << 32 | tag)
            self._checks.append(rolling & 0xFF)
        self._rolling = rolling
        return rolling

    def recorded(self, origin: Origin, outcome: Outcome) -> Recorded:
        """What a token of this run, which is over, carries."""
        return Recorded(
            origin=origin,
            schedule=Schedule(outcome.tasks, outcome.branches, self.repeats_from),
            stride=check_stride(outcome.steps),
            checks=thinned(bytes(self._checks)),
            digest=outcome.digest,
        )


class ReplayedRun(CheckedRun):
    """A live run of a schedule that is known: holds the steps against their record, if given.

    The steps after the first ``repeats_from`` must lead back to where they began, at the step
    budget.
    """

    def __init__(
        self,
        world: World,
        picker: Picker,
        *,
        expected: Recorded | None = None,
        record: bool = False,
        step_budget: int | None = None,
        incremental: bool = False,
        repeats_from: int | None = None,
    ) -> None:
        super().__init__(
            world, picker, record=record, step_budget=step_budget, incremental=incremental
        )
        self.repeats_from = repeats_from
        self._round: Round | None = None
        self._expected = expected

    def step(self, number: int) -> None:
        """Check the step, then take it."""
        op = self.pending[number]
        assert op is not None, "a finished task cannot step"
        if self._expected is not None:
            self._compare(self._expected, number, op)
        if self.steps == self.repeats_from:
            self._round = Round(self)
        if self._round is not None:
            self._round.step(number, op)
        super().step(number)

    def watch(self, number: int, op: Op, result: Any, before: list[tuple[Cell[Any], Any]]) -> None:
        """Note what the step means for the round."""
        if self._round is not None:
            self._round.saw(number, resolve(op.event, result))
        super().watch(number, op, result, before)

    def next(self) -> int | None:
        """Who steps next; at the end of a round, judge it."""
        going = self.ending is None
        number = super().next()
        if going and self.ending is Ending.STEP_BUDGET and self._round is not None:
            if not self._round.is_closed():
                assert self.repeats_from is not None
                raise Diverged(
                    f"the steps {self.repeats_from + 1} to {self.steps} do not lead back to where "
                    "they began",
                    self.steps,
                )
            self.findings.extend(self._round.findings())
            self.ending = Ending.FINDING if self.findings else self.ending
        return number

    def _compare(self, expected: Recorded, number: int, op: Op) -> None:
        """Hold the step that is to be taken, and those since the last check, against the record."""
        step, total = self.steps + 1, len(expected.schedule.tasks)
        stride = check_stride(total)
        if step % stride and step != total:
            return
        check = rolled(self.check_records(), number, self.mask, op_tag(op)) & 0xFF
        if check != expected.checks[(step - 1) // stride]:
            first = max(1, step - stride + 1)
            where = f"step {step}" if first == step else f"one of the steps {first} to {step}"
            raise Diverged(
                f"{where} differs from the record in its task, its op or the enabled tasks; now: "
                f"{self.tasks[number].name} does `{op.describe()}`, enabled are {self._enabled()}",
                first,
            )

    def _enabled(self) -> str:
        return ", ".join(self.tasks[number].name for number in self.ready)


def replay(
    world: World,
    recorded: Recorded,
    picker: Picker,
    drive: Drive,
    *,
    record: bool = False,
    incremental: bool = False,
) -> tuple[ReplayedRun, Outcome]:
    """Run the schedule again; ``picker`` takes its choices. Errors: Diverged.

    A record that stops short of the end (a livelock has none) ends with its last step.
    """
    total = len(recorded.schedule.tasks)
    run = ReplayedRun(
        world,
        picker,
        expected=recorded,
        record=record,
        incremental=incremental,
        step_budget=total,
        repeats_from=recorded.schedule.repeats_from,
    )
    outcome = drive(run)
    if outcome.steps < total:
        raise Diverged(
            f"the run is over after {outcome.steps} steps ({outcome.ending.value}), "
            f"but {total} were recorded",
            outcome.steps + 1,
        )
    if outcome.digest != recorded.digest:
        raise Diverged(
            "the same tasks took the same steps, but read or wrote other values (the digests "
            f"differ: {outcome.digest} now, {recorded.digest} recorded)",
            total,
        )
    return run, outcome
