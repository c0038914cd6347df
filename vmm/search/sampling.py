"""Sampling: many executions of one world, each under its own seed.

Two executions are of one *class* if they differ only in the order of independent steps: steps of
different tasks that do not touch the same cell, or only read it. Each class is one partial order.
The share of executions whose class was seen only once estimates the chance that the next execution
is of a class not seen yet (Good 1953, "The population frequencies of species").

Telling classes apart takes about as long as the execution itself, so only the first
``CLASSIFIED_MAX`` executions are classified: enough for the estimate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from vmm.engine.live import Run
from vmm.engine.monitor import Finding
from vmm.engine.schedule import Picker
from vmm.engine.trace import Outcome
from vmm.engine.world import World
from vmm.search.replay import Drive

_WORD = (1 << 64) - 1

Progress = Callable[["Sample"], None]
"""Told now and then how far the sampling is."""

CLASSIFIED_MAX = 10_000
"""Executions whose class is found out; those after them run at full speed."""
PROGRESS_EVERY = 64
"""Executions between two calls of a ``Progress``."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An execution with a finding of a kind that no earlier one had."""

    execution: int
    seed: int
    outcome: Outcome


@dataclass(slots=True)
class Sample:
    """What came of the executions so far.

    ``classes`` counts, by a hash of the partial order, how often each was seen among the
    executions that were classified.
    """

    executions: int = 0
    steps: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    goals: dict[str, bool] = field(default_factory=dict)
    classes: dict[int, int] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def first_failure(self) -> int | None:
        """The number of the first execution that failed, from 1."""
        return self.failures[0].execution if self.failures else None

    @property
    def classified(self) -> int:
        """How many executions were classified."""
        return sum(self.classes.values())

    @property
    def unseen_mass(self) -> float | None:
        """The estimated chance that one more execution is of a class not seen yet."""
        if not self.classes:
            return None
        return sum(count == 1 for count in self.classes.values()) / self.classified

    def classify(self, partial_order: int) -> None:
        """Count an execution's class."""
        self.classes[partial_order] = self.classes.get(partial_order, 0) + 1

    def add(self, seed: int, outcome: Outcome) -> None:
        """Count an execution."""
        self.executions += 1
        self.steps += outcome.steps
        for goal, reached in outcome.goals.items():
            self.goals[goal] = reached or self.goals.get(goal, False)
        if outcome.findings and not any(
            kind_of(failure.outcome.findings[0]) == kind_of(outcome.findings[0])
            for failure in self.failures
        ):
            self.failures.append(Failure(self.executions, seed, outcome))


def kind_of(finding: Finding) -> tuple[str, str]:
    """What makes two findings the same find."""
    return finding.code, finding.rule


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after so many executions, so many seconds, or at the first failure.

    ``incremental``: runs are long, so audit what changed only.
    """

    executions: int | None = None
    seconds: float | None = None
    keep_going: bool = False
    incremental: bool = False

    def allows(self, sample: Sample) -> bool:
        """Whether there may be one more execution."""
        return not (
            (self.executions is not None and sample.executions >= self.executions)
            or (self.seconds is not None and sample.seconds >= self.seconds)
            or (sample.failures and not self.keep_going)
        )


def sample(
    world: World,
    make: Callable[[int], Picker],
    drive: Drive,
    *,
    budget: Budget,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Sample:
    """Run execution after execution: number n, from 1, under ``make(seed + n - 1)``.

    Ctrl-C ends it early and keeps what there is.
    """
    done = Sample(goals=dict.fromkeys(world.goals, False))
    started = time.perf_counter()
    try:
        for number in _seeds(seed):
            if not budget.allows(done):
                break
            kind = ClassifiedRun if done.executions < CLASSIFIED_MAX else Run
            run = kind(world, make(number), incremental=budget.incremental)
            done.add(number, drive(run))
            if isinstance(run, ClassifiedRun):
                done.classify(run.partial_order)
            done.seconds = time.perf_counter() - started
            if on_progress is not None and done.executions % PROGRESS_EVERY == 0:
                on_progress(done)
    except KeyboardInterrupt:
        done.interrupted = True
    done.seconds = time.perf_counter() - started
    return done


def _seeds(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1


class ClassifiedRun(Run):
    """A run that hashes its partial order as it goes.

    A step's hash covers the task, the op, and the hashes of the steps right before it in the
    partial order: the task's last one, the last write of each cell it touches and, for a write,
    the reads since then. The sum of all steps' hashes does not depend on the order in which
    independent steps were taken, and equal sums mean equal orders, but for chance (2**-64 a pair).
    """

    def __init__(self, world: World, picker: Picker, *, incremental: bool = False) -> None:
        super().__init__(world, picker, incremental=incremental)
        self.partial_order = 0
        self._last_step = [0] * len(self.tasks)
        self._last_write: dict[int, int] = {}
        self._reads_since: dict[int, int] = {}

    def step(self, number: int) -> None:
        """Take the step, then hash it."""
        op = self.pending[number]
        assert op is not None, "a finished task cannot step"
        super().step(number)
        writes, last_write, reads = op.writes, self._last_write, self._reads_since
        branch = self.branches[-1] if op.branches > 1 else 0
        mark = hash((number, op.code, branch, self._last_step[number]))
        for cell in op.cells:
            tag = cell.tag
            mark = hash((mark, last_write.get(tag), reads.get(tag) if writes else 0))
        for cell in op.cells:
            tag = cell.tag
            if writes:
                last_write[tag], reads[tag] = mark, 0
            else:
                reads[tag] = reads.get(tag, 0) + mark
        self._last_step[number] = mark
        self.partial_order = (self.partial_order + mark) & _WORD
