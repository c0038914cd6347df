"""The searches of the matrix, each on its own, on as many processes as there are jobs.

A fixed twin is the scenario without the bug; bugs that share a scenario share its twin.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import median

from vmm.bugs import Bug
from vmm.discovery import discover
from vmm.engine.schedule import encode
from vmm.matrix.plan import Pair
from vmm.scenario.experiment import Experiment, host_named, prepare
from vmm.scenario.loading import load
from vmm.search.exhaustive import search
from vmm.search.liveness import is_livelock
from vmm.search.preemptions import fewest_preemptions
from vmm.search.replay import ReplayedRun
from vmm.search.result import Result, Verdict
from vmm.search.sampling import Budget, sample
from vmm.strategies.recorded import RecordedPicker

LIVELOCK = "livelock/"
"""How the codes of findings that only a search of all states shows begin."""

SEEDS = 20
"""How often a bug is looked for by sampling."""

EXECUTIONS_MAX = 1_000
"""Executions after which one look by sampling gives up."""

PREEMPTIONS_MAX = 4
"""Preemptions of the schedules in which a bug is looked for at the most."""

STATES_MAX = 400_000
"""States after which the fewest preemptions stay unknown."""


@dataclass(frozen=True)
class BugSearch:
    """Look for a bug in all states of its scenario."""

    pair: Pair

    def __str__(self) -> str:
        return self.pair.bug


@dataclass(frozen=True)
class TwinSearch:
    """Visit all states of a scenario, which has no bug."""

    scenario: str

    def __str__(self) -> str:
        return f"{self.scenario} without a bug"


@dataclass(frozen=True)
class Sampling:
    """Look for a bug in random schedules, ``SEEDS`` times."""

    pair: Pair

    def __str__(self) -> str:
        return f"{self.pair.bug} by sampling"


Piece = BugSearch | TwinSearch | Sampling


@dataclass(frozen=True)
class Found:
    """What a search for a bug came to; ``schedule`` is the token of a shortest counterexample.

    ``code``: of what was found first; None: nothing. ``steps`` and ``switches`` are those of the
    counterexample, as the live run of its schedule counts them. ``preemptions``: the fewest of any
    schedule that shows it (``vmm.search.preemptions``); None: over ``PREEMPTIONS_MAX``, or unknown.
    """

    code: str | None
    states: int
    steps: int | None = None
    switches: int | None = None
    preemptions: int | None = None
    schedule: str | None = None


@dataclass(frozen=True)
class Twin:
    """What a search of a scenario without a bug came to.

    ``code``: of a finding, which would be a false positive. ``goals``: those never reached.
    """

    complete: bool
    states: int
    code: str | None
    goals: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether every state was visited, nothing found, and every goal reached."""
        return self.complete and self.code is None and not self.goals


@dataclass(frozen=True)
class Sampled:
    """The median of the executions until a bug was found; None: more than half gave up."""

    executions: int | None


Answer = Found | Twin | Sampled


def pieces(pairs: Sequence[Pair], *, sampling: bool) -> list[Piece]:
    """All that has to be searched for these pairs, the longest kind first.

    No execution shows a livelock, so that sampling does not look for one.
    """
    sampled = [pair for pair in pairs if sampling and shows_in_a_step(pair.bug)]
    twins = [TwinSearch(name) for name in dict.fromkeys(pair.scenario for pair in pairs)]
    return [*map(Sampling, sampled), *twins, *map(BugSearch, pairs)]


def answers(wanted: Sequence[Piece], jobs: int) -> Iterator[tuple[Piece, Answer]]:
    """The answers as they come, from ``jobs`` processes; one job is done in this process."""
    if jobs == 1:
        yield from ((piece, answer(piece)) for piece in wanted)
        return
    # A fork would take the threads of this process with it half dead.
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin)
    try:
        waiting = {pool.submit(answer, piece): piece for piece in wanted}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others


def answer(piece: Piece) -> Answer:
    """Do one piece of the work."""
    match piece:
        case BugSearch(pair):
            return look_for(pair)
        case TwinSearch(scenario):
            return exhaust(scenario)
        case Sampling(pair):
            return look_by_sampling(pair)


def experiment_of(scenario: str, *bugs: str) -> Experiment:
    """The scenario, as small as it can be searched whole."""
    loaded = load(scenario)
    return prepare(loaded, params=loaded.scenario.small, bugs=bugs)


def look_for(pair: Pair) -> Found:
    """Search for a bug, and run what was found once more."""
    experiment = experiment_of(pair.scenario, pair.bug)
    result = search(experiment.world())
    if result.schedule is None:
        return Found(None, result.states)
    fewest = None
    if not is_livelock(result.findings[0]):
        fewest = fewest_preemptions(experiment.world(), most=PREEMPTIONS_MAX, max_states=STATES_MAX)
    found = _witnessed(experiment, result)
    return replace(found, preemptions=None if fewest is None else fewest.preemptions)


def _witnessed(experiment: Experiment, result: Result) -> Found:
    assert result.schedule is not None
    run = ReplayedRun(
        experiment.world(),
        RecordedPicker(result.schedule),
        step_budget=len(result.schedule.tasks),
        repeats_from=result.schedule.repeats_from,
    )
    outcome = host_named("direct")(run)
    return Found(
        code=result.findings[0].code,
        states=result.states,
        steps=outcome.steps,
        switches=outcome.switches,
        schedule=encode(run.recorded(experiment.origin, outcome)),
    )


def exhaust(scenario: str) -> Twin:
    """Visit every state of a scenario."""
    result = search(experiment_of(scenario).world(), reduce=True)
    return Twin(
        complete=result.complete or result.verdict is Verdict.VIOLATED,
        states=result.states,
        code=result.findings[0].code if result.findings else None,
        goals=tuple(goal for goal, reached in result.goals.items() if not reached),
    )


def look_by_sampling(pair: Pair) -> Sampled:
    """Sample under ``SEEDS`` seeds, each until the bug is found or ``EXECUTIONS_MAX`` are over."""
    experiment = experiment_of(pair.scenario, pair.bug)
    world = experiment.world()
    make, drive = experiment.pickers(world, "random"), host_named("direct")
    budget, never = Budget(executions=EXECUTIONS_MAX), float("inf")
    needed = [
        sample(world, make, drive, budget=budget, seed=1 + number * EXECUTIONS_MAX).first_failure
        for number in range(SEEDS)
    ]
    found = median(never if count is None else count for count in needed)
    return Sampled(None if found == never else round(found))


def shows_in_a_step(bug: str) -> bool:
    """Whether a finding ends a run with this bug, rather than a livelock."""
    spec: Bug = discover("vmm.bugs")[bug].SPEC
    return any(not code.startswith(LIVELOCK) for code in spec.caught_by)
