"""Every state of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from vmm.cli._explored import Budget, Explored
from vmm.cli._output import Session
from vmm.errors import UsageError

if TYPE_CHECKING:
    from vmm.report.violation import Violation
    from vmm.scenario.experiment import Experiment
    from vmm.search.result import Result

COLLISION_WORTH_A_WORD = 1e-6
"""Below that probability of a wrong answer, people are not told of it."""


class _OutOfTime(KeyboardInterrupt):
    """Ends a search as Ctrl-C does: what was found is kept."""


def exhaust(at_work: Session, experiment: Experiment, limits: Budget, name: str) -> Explored:
    """Visit all states, as far as the budget goes; ``name`` is exhaustive or reference."""
    from vmm.scenario.failures import user_errors
    from vmm.search.result import Stop

    world, search = experiment.world(), _search_named(name, limits)
    at_work.begin(experiment, experiment.command("explore", "--search", name))
    out_of_budget = False

    def on_progress(states: int, waiting: int) -> None:
        nonlocal out_of_budget
        seconds = at_work.seconds
        tell(f"{states:,} states, {waiting:,} to be expanded, {states / seconds:,.0f} a second")
        late = limits.seconds is not None and seconds > limits.seconds
        out_of_budget = late or (limits.max_states is not None and states > limits.max_states)
        if late:
            raise _OutOfTime

    with at_work.progress("exploring") as tell, user_errors():
        result = search(world, on_progress=on_progress)
        at_work.exclude(result.startup_seconds)
        seconds = at_work.seconds
        rehashed = None
        if limits.rehash and result.complete:
            again = search(experiment.world(), on_progress=on_progress, seed=2)
            at_work.exclude(again.startup_seconds)
            rehashed = again.complete and _counts(again) == _counts(result)
    at_work.log(f"local states learned, by task: {result.local_states}")
    out_of_budget |= result.stop in (Stop.STATES, Stop.MEMORY)
    return Explored(
        keys=_keys(result, seconds, rehashed),
        lines=_lines(result, seconds, rehashed, limits.jobs),
        goals=result.goals,
        violations=_violations(experiment, result),
        interrupted=not (result.complete or result.findings or out_of_budget),
    )


def _search_named(name: str, limits: Budget) -> Callable[..., Result]:
    from vmm.search import exhaustive, reference

    if name == "reference":
        if limits.rehash or limits.max_bytes is not None:
            raise UsageError(
                "--search reference keeps whole states and counts no bytes: leave --rehash and "
                "--max-memory out"
            )
        if limits.engine != "auto":
            raise UsageError("--search reference is plain Python: leave --engine out")
        return partial(reference.search, max_states=limits.max_states)
    return partial(
        exhaustive.search,
        max_states=limits.max_states,
        max_bytes=limits.max_bytes,
        engine=limits.engine,
        jobs=limits.jobs,
        reduce=limits.reduce,
    )


def _counts(result: Result) -> tuple[object, ...]:
    return result.verdict, result.states, result.transitions, result.terminal_states


def _lines(result: Result, seconds: float, rehashed: bool | None, jobs: int) -> list[str]:
    from vmm.search.result import Stop

    states = (
        f" states  {result.states:,} in {seconds:.2f} s ({result.engine}); "
        f"{result.transitions:,} transitions, depth {result.depth}, "
        f"{result.terminal_states:,} ways to end"
    )
    lines = [states]
    if result.reduced:
        lines.append(
            " reduced states that differ in no way that matters are left out (--reduction)"
        )
    if jobs > result.jobs:
        lines.append(f" jobs    1 of {jobs}: only the loops of numba run on several threads")
    if result.collision_bound > COLLISION_WORTH_A_WORD:
        lines.append(
            f" hashes  two states were taken for one with a probability below "
            f"{result.collision_bound:.0e}; --rehash confirms"
        )
    if rehashed is not None:
        same = "the same counts" if rehashed else "OTHER COUNTS: states were taken for each other"
        lines.append(f" rehash  other hashes give {same}")
    if result.stop is Stop.MEMORY:
        lines.append(" stopped the states have outgrown --max-memory")
    return lines


def _keys(result: Result, seconds: float, rehashed: bool | None) -> dict[str, Any]:
    # Two counts that differ prove that states were missed, so that clean would be too much to say.
    missed = rehashed is False and not result.findings
    return {
        "seconds": seconds,
        "complete": result.complete and not missed,
        "verdict": "incomplete" if missed else result.verdict.value,
        "states": result.states,
        "transitions": result.transitions,
        "depth": result.depth,
        "states_per_second": result.states / seconds if seconds else None,
        "local_states": sum(result.local_states),
        "terminal_states": result.terminal_states,
        "reduction": "auto" if result.reduced else "none",
        "collision_bound": result.collision_bound,
        "rehashed": rehashed,
        "engine": result.engine,
        "jobs": result.jobs,
    }


def _violations(experiment: Experiment, result: Result) -> list[Violation]:
    from vmm.report.violation import witnessed
    from vmm.strategies.recorded import RecordedPicker

    if result.schedule is None:
        return []
    picker, steps = RecordedPicker(result.schedule), len(result.schedule.tasks)
    return [
        witnessed(
            experiment,
            experiment.world(),
            picker,
            result.findings,
            steps=steps,
            repeats_from=result.schedule.repeats_from,
        )
    ]
