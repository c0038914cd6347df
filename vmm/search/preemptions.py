"""The fewest preemptions that a finding needs: how improbable the schedules are that show it.

A preemption is a switch away from a task that could have gone on. A switch away from one that has
ended, or that waits, costs nothing. Most bugs need one or two (Musuvathi and Qadeer, "Iterative
context bounding for systematic testing of multithreaded programs", PLDI 2007), so that a schedule
with few of them is also the one that is easiest to read.

The search is that of ``vmm.search.reference`` on pairs of a state and the task that stepped last:
first all that needs no preemption, then all that needs one, and so on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmm.engine.monitor import Finding
from vmm.engine.schedule import Schedule
from vmm.search.reference import Move, ReferenceSearch, State

if TYPE_CHECKING:
    from vmm.engine.world import World

NOBODY = -1
"""Who stepped last at the start."""


@dataclass(frozen=True, slots=True)
class Preempted:
    """A finding with the fewest preemptions; ``visited`` counts states by who stepped last."""

    preemptions: int
    findings: tuple[Finding, ...]
    schedule: Schedule
    visited: int


def fewest_preemptions(
    world: World, *, most: int, max_states: int | None = None
) -> Preempted | None:
    """The first finding that a schedule with ``most`` preemptions at the most leads to.

    None: there is none, or none before more than ``max_states`` were visited. Livelocks are not
    looked for. Errors: as the reference search.
    """
    run = _Search(world, monitors=True, witnesses=True, max_states=max_states)
    try:
        preemptions = run.visit_most(most)
        if run.first is None:
            return None
        _, findings, schedule = run.first
        return Preempted(preemptions, findings, schedule, len(run.paths))
    finally:
        run.close()


@dataclass(frozen=True, slots=True)
class _Place:
    """A state with the task that stepped last; ``number`` is its place in ``paths``."""

    number: int
    state: State
    last: int


class _Search(ReferenceSearch):
    """``paths`` holds how each place was reached first, which is with the fewest preemptions."""

    def visit_most(self, most: int) -> int:
        """Visit all that ``most`` preemptions reach, unless there is a finding before.

        Gives the number of preemptions that were allowed in the end.
        """
        self.places: dict[tuple[int, int], None] = {}
        layer = [_Place(number, state, NOBODY) for number, state in self.begin()]
        for preemptions in range(most + 1):
            reached = self.visit_unpreempted(layer)
            if self.first is not None or preemptions == most or self.is_too_large:
                return preemptions
            layer = []
            for place in reached:
                layer += self.step_from(place, preempting=True)
                if self.first is not None:
                    return preemptions + 1
        return most

    @property
    def is_too_large(self) -> bool:
        """Whether as much was visited as may be."""
        return self.max_states is not None and len(self.paths) > self.max_states

    def visit_unpreempted(self, layer: list[_Place]) -> list[_Place]:
        """All that is reached from there without a preemption, or up to the first finding."""
        queue, reached = deque(layer), list(layer)
        while queue and self.first is None and not self.is_too_large:
            found = self.step_from(queue.popleft(), preempting=False)
            queue += found
            reached += found
        return reached

    def step_from(self, place: _Place, *, preempting: bool) -> list[_Place]:
        """The places behind the steps that preempt the last task, or behind those that do not."""
        memory, locals_, _ = place.state
        moves = self.moves(memory, locals_)
        if not moves and not preempting:
            self.end(place.number, memory, locals_)
        goes_on = any(task == place.last for task, _ in moves)
        wanted = [move for move in moves if (goes_on and move[0] != place.last) is preempting]
        made = (self.place_behind(place, move) for move in wanted)
        return [found for found in made if found is not None]

    def place_behind(self, place: _Place, move: Move) -> _Place | None:
        """None behind a finding, and for a place that was reached before."""
        state = self.follow(place.number, place.state, move)
        if state is None:
            return None
        known = self.numbers.setdefault(state, len(self.numbers))
        task = move[0]
        if (known, task) in self.places:
            return None
        self.places[known, task] = None
        self.paths.append((place.number, move))
        return _Place(len(self.paths) - 1, state, task)
