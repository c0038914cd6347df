"""Livelocks by brute force: all states of a tiny world by number, and who reaches whom.

Shares nothing with the searches: every state is reached again from the start, on real coroutines,
and known by what Python shows of a suspended frame: code, last instruction, locals. That does not
show what an expression or a ``for`` has on its stack, so it is for programs without either (see
``random_loops``). Components are not computed: two states are in one if each reaches the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.search.brute import Choice, Execution, Prefix
from vmm.engine.schedule import Schedule
from vmm.engine.task import TaskKind
from vmm.engine.world import World


@dataclass
class Graph:
    """All states, numbered by depth. ``steps``: source, task, whether it gets on, target.

    ``overtaken``: for each step the tasks, other than optional ones, that wait for the lock that it
    takes.
    """

    world: World
    depths: list[int] = field(default_factory=list)
    steps: list[tuple[int, int, bool, int]] = field(default_factory=list)
    overtaken: dict[tuple[int, int, bool, int], set[int]] = field(default_factory=dict)
    enabled: list[set[int]] = field(default_factory=list)
    quiet: list[int] = field(default_factory=list)
    deadlocks: list[int] = field(default_factory=list)

    def verdict(self) -> tuple[str | None, int | None]:
        """The code of what is wrong, if anything is; and, of a livelock, the steps to its round."""
        if self.deadlocks:
            return "deadlock/stuck", None
        waited = [step for step in self.steps if self.kind(step[1]) is not TaskKind.OPTIONAL]
        lost = self.lost(waited)
        rounds = self.fair(waited)
        if lost:
            return "livelock/inescapable", self.first(rounds & lost)
        return ("livelock/fair", self.first(rounds)) if rounds else (None, None)

    def kind(self, task: int) -> TaskKind:
        return self.world.tasks[task].kind

    def first(self, states: set[int]) -> int | None:
        return min([self.depths[state] for state in states], default=None)

    def lost(self, steps: list[tuple[int, int, bool, int]]) -> set[int]:
        """States from which no end is reached."""
        reach = _closure(len(self.depths), steps)
        ends = sum([1 << state for state in self.quiet])
        return {n for n, reached in enumerate(reach) if not (reached | 1 << n) & ends}

    def fair(self, steps: list[tuple[int, int, bool, int]]) -> set[int]:
        """States of fair rounds in which nobody gets on."""
        steps = [step for step in steps if not step[2]]
        return self.rounds(steps)

    def rounds(self, steps: list[tuple[int, int, bool, int]]) -> set[int]:
        """States of fair rounds of these steps."""
        reach, found = _closure(len(self.depths), steps), set[int]()
        for state, reached in enumerate(reach):
            if reached >> state & 1 and state not in found:
                part = {n for n, r in enumerate(reach) if reached >> n & 1 and r >> state & 1}
                within = [step for step in steps if {step[0], step[3]} <= part]
                moving = {task for _, task, _, _ in within}
                always = set.intersection(*[self.enabled[n] for n in part])
                polite = [step for step in within if self.overtaken[step] <= moving]
                if always <= moving:
                    found |= part if polite == within else self.rounds(polite)
        return found


def _closure(states: int, steps: list[tuple[int, int, bool, int]]) -> list[int]:
    """For each state the mask of those that it reaches in one step or more."""
    direct = [0] * states
    for source, _, _, target in steps:
        direct[source] |= 1 << target
    reach, before = direct, list[int]()
    while reach != before:
        before, reach = reach, reach.copy()
        for state in range(states - 1, -1, -1):
            for source in range(states):
                if reach[source] >> state & 1:
                    reach[source] |= reach[state]
    return reach


def all_states(world: World, limit: int) -> Graph | None:
    """The graph of a world; None beyond ``limit`` states. Ends are not expanded."""
    graph, numbers, prefixes = Graph(world), dict[Any, int](), list[Prefix]()

    def number(prefix: Prefix, execution: Execution) -> int:
        found = numbers.setdefault(shown(execution), len(prefixes))
        if found == len(prefixes):
            prefixes.append(prefix)
            graph.depths.append(len(prefix))
            graph.enabled.append(able(execution))
        return found

    first = Execution(world, ())
    number((), first)
    first.close()
    at = 0
    while at < len(prefixes) <= limit:
        here = Execution(world, prefixes[at])
        end, choices, goals = here.ends(), list(here.choices()), len(here.goals)
        here.close()
        if end is not None:
            (graph.quiet if end == "quiet" else graph.deadlocks).append(at)
            choices = []
        for choice in choices:
            prefix = (*prefixes[at], choice)
            waiting = queued_behind(prefixes[at], world, choice[0])
            after = Execution(world, prefix)
            gets_on = bool(set(after.goals[goals:]) & set(world.goals))
            gets_on = gets_on and graph.kind(choice[0]) is TaskKind.FOREGROUND
            step = (at, choice[0], gets_on, number(prefix, after))
            graph.steps.append(step)
            graph.overtaken[step] = waiting
            after.close()
        at += 1
    return graph if len(prefixes) <= limit else None


def able(execution: Execution) -> set[int]:
    """The tasks that can step and are not optional."""
    kinds = [task.kind for task in execution.world.tasks]
    return {task for task, _ in execution.choices() if kinds[task] is not TaskKind.OPTIONAL}


def queued_behind(prefix: Prefix, world: World, task: int) -> set[int]:
    """Who waits for the lock that a task takes next, if it takes one."""
    here = Execution(world, prefix)
    ops = [None if op is None or op.kind != "acquire" else op.cell for op in here.pending]
    here.close()
    kinds = [made.kind for made in world.tasks]
    return {
        other
        for other, cell in enumerate(ops)
        if cell is not None and cell is ops[task] and other != task
        if kinds[other] is not TaskKind.OPTIONAL
    }


def shown(execution: Execution) -> object:
    """The state, as far as Python shows it without looking into objects."""
    memory = {
        cell.name: repr(value)
        for cell in execution.world.cells
        if (value := execution.memory[cell.index]) != cell.initial
    }
    return tuple(sorted(memory.items())), tuple(map(_frames, execution.programs))


def _frames(program: Any) -> object:
    frames = []
    while getattr(program, "cr_frame", None) is not None:
        frame = program.cr_frame
        here = sorted((name, repr(value)) for name, value in frame.f_locals.items())
        frames.append((frame.f_code.co_name, frame.f_lasti, tuple(here)))
        program = program.cr_await
    return tuple(frames)


def goes_round(world: World, schedule: Schedule) -> bool:
    """Whether the last steps of a schedule are a fair round in which nobody gets on."""
    first = schedule.repeats_from
    assert first is not None
    branches = iter(schedule.branches)
    prefix: list[Choice] = []
    states, always, goals = [], set(range(len(world.tasks))), list[int]()
    overtaken = set[int]()
    for task in [*schedule.tasks, None]:
        here = Execution(world, tuple(prefix))
        if len(prefix) >= first:
            states.append(shown(here))
            always &= able(here)
            goals.append(sum(goal in world.goals for goal in here.goals))
        if task is not None:
            op = here.pending[task]
            assert op is not None
            if len(prefix) >= first:
                overtaken |= queued_behind(tuple(prefix), world, task)
            prefix.append((task, next(branches) if op.kind == "choose" else None))
        here.close()
    steps = list(zip(schedule.tasks[first:], goals, goals[1:], strict=False))
    kinds = [world.tasks[task].kind for task, _, _ in steps]
    gets_on = [
        after > before and kind is TaskKind.FOREGROUND
        for (_, before, after), kind in zip(steps, kinds, strict=True)
    ]
    moving = {task for task, _, _ in steps}
    fair = always | overtaken <= moving and TaskKind.OPTIONAL not in kinds
    return bool(steps) and states[0] == states[-1] and fair and not any(gets_on)
