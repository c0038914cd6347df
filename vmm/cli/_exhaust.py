"""Every state of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmm.cli._explored import Budget, Explored
from vmm.cli._output import Session

if TYPE_CHECKING:
    from vmm.report.violation import Violation
    from vmm.scenario.experiment import Experiment
    from vmm.search.result import Result


class _OutOfTime(KeyboardInterrupt):
    """Ends a search as Ctrl-C does: what was found is kept."""


def exhaust(at_work: Session, experiment: Experiment, limits: Budget) -> Explored:
    """Visit all states, as far as the budget goes."""
    from vmm.scenario.failures import user_errors
    from vmm.search.reference import search

    world = experiment.world()
    at_work.begin(experiment, experiment.command("explore", "--search", "exhaustive"))
    out_of_budget = False

    def on_progress(states: int, waiting: int) -> None:
        nonlocal out_of_budget
        tell(f"{states:,} states, {waiting:,} to be expanded")
        late = limits.seconds is not None and at_work.seconds > limits.seconds
        out_of_budget = late or (limits.max_states is not None and states > limits.max_states)
        if late:
            raise _OutOfTime

    with at_work.progress("exploring") as tell, user_errors():
        result = search(world, max_states=limits.max_states, on_progress=on_progress)
    seconds = at_work.seconds
    states = (
        f" states  {result.states:,} in {seconds:.2f} s; {result.transitions:,} transitions, "
        f"depth {result.depth}, {result.terminal_states:,} ways to end"
    )
    at_work.log(f"local states learned, by task: {result.local_states}")
    return Explored(
        keys=_keys(result, seconds),
        lines=[states],
        goals=result.goals,
        violations=_violations(experiment, result),
        interrupted=not (result.complete or result.findings or out_of_budget),
    )


def _keys(result: Result, seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "complete": result.complete,
        "verdict": result.verdict.value,
        "states": result.states,
        "transitions": result.transitions,
        "depth": result.depth,
        "states_per_second": result.states / seconds if seconds else None,
        "local_states": sum(result.local_states),
        "terminal_states": result.terminal_states,
        "reduction": "none",
        "collision_bound": 0.0,
    }


def _violations(experiment: Experiment, result: Result) -> list[Violation]:
    from vmm.report.violation import witnessed
    from vmm.strategies.recorded import RecordedPicker

    if result.schedule is None:
        return []
    picker, steps = RecordedPicker(result.schedule), len(result.schedule.tasks)
    return [witnessed(experiment, experiment.world(), picker, result.findings, steps=steps)]
