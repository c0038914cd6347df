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
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

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


class Execution(NamedTuple):
    """What came of one run; ``partial_order`` is a hash of it, if it was classified."""

    seed: int
    outcome: Outcome
    partial_order: int | None


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

    def add(self, execution: Execution) -> None:
        """Count an execution."""
        seed, outcome, partial_order = execution
        if partial_order is not None:
            self.classes[partial_order] = self.classes.get(partial_order, 0) + 1
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
    """When to stop: after so many executions, so many seconds, or at the first failure."""

    executions: int | None = None
    seconds: float | None = None
    keep_going: bool = False

    def allows(self, sample: Sample) -> bool:
        """Whether there may be one more execution."""
        return not (
            (self.executions is not None and sample.executions >= self.executions)
            or (self.seconds is not None and sample.seconds >= self.seconds)
            or (sample.failures and not self.keep_going)
        )


class Sampler:
    """Makes executions of a world: number n, from 1, under ``make(seed + n - 1)``.

    ``incremental``: runs are long, so audit what changed only.
    """

    def __init__(
        self,
        world: World,
        make: Callable[[int], Picker],
        drive: Drive,
        *,
        seed: int,
        incremental: bool = False,
    ) -> None:
        self.world = world
        self._make = make
        self._drive = drive
        self._seed = seed
        self._incremental = incremental

    def execution(self, number: int) -> Execution:
        """The execution of that number, which depends on nothing else."""
        seed = self._seed + number - 1
        kind = ClassifiedRun if number <= CLASSIFIED_MAX else Run
        run = kind(self.world, self._make(seed), incremental=self._incremental)
        outcome = self._drive(run)
        return Execution(
            seed, outcome, run.partial_order if isinstance(run, ClassifiedRun) else None
        )

    def executions(self) -> Generator[Execution, None, None]:
        """One after the other, without end."""
        yield from map(self.execution, count(1))


def sample(
    world: World,
    make: Callable[[int], Picker],
    drive: Drive,
    *,
    budget: Budget,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Sample:
    """Run execution after execution; Ctrl-C ends it early and keeps what there is."""
    sampler = Sampler(world, make, drive, seed=seed)
    return collect(sampler.executions(), world, budget=budget, on_progress=on_progress)


def collect(
    executions: Generator[Execution, None, None],
    world: World,
    *,
    budget: Budget,
    on_progress: Progress | None = None,
) -> Sample:
    """What comes of executions that are given in their order, as far as the budget goes."""
    done = Sample(goals=dict.fromkeys(world.goals, False))
    started = time.perf_counter()
    try:
        with closing(executions):
            while budget.allows(done):
                done.add(next(executions))
                done.seconds = time.perf_counter() - started
                if on_progress is not None and done.executions % PROGRESS_EVERY == 0:
                    on_progress(done)
    except KeyboardInterrupt:
        done.interrupted = True
    done.seconds = time.perf_counter() - started
    return done


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
            # Numbers only: before Python 3.12 the hash of None differs from process to process.
            mark = hash((mark, last_write.get(tag, 0), reads.get(tag, 0) if writes else 0))
        for cell in op.cells:
            tag = cell.tag
            if writes:
                last_write[tag], reads[tag] = mark, 0
            else:
                reads[tag] = reads.get(tag, 0) + mark
        self._last_step[number] = mark
        self.partial_order = (self.partial_order + mark) & _WORD
