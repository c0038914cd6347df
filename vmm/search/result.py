"""What a search hands back, and the findings that need no monitor."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmm.engine.monitor import Finding
from vmm.engine.schedule import Schedule
from vmm.engine.task import TaskKind

if TYPE_CHECKING:
    from vmm.engine.ops import Op
    from vmm.engine.world import World


class Verdict(enum.Enum):
    """What a search can say."""

    CLEAN = "clean"
    VIOLATED = "violated"
    INCOMPLETE = "incomplete"


class Stop(enum.Enum):
    """Why a search ended before it had visited every state."""

    FINDING = "finding"
    STATES = "max-states"
    MEMORY = "memory"
    INTERRUPT = "interrupt"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a search.

    ``findings`` and ``schedule`` are those of the first violation, a shortest one. ``terminal`` is
    each distinct content of the observable cells in quiet or deadlocked states, by cell name;
    sparse cells that hold their initial value are left out. ``local_states`` is per task.
    ``collision_bound`` bounds the probability that two states were taken for one. ``engine`` is
    what expanded the states at last: python, numpy or numba; ``startup_seconds`` are those that
    went into importing numba and compiling. ``reduced``: the counts are those of a search with
    partial-order reduction.
    """

    verdict: Verdict
    complete: bool
    states: int
    transitions: int
    depth: int
    deadlocks: int
    findings: tuple[Finding, ...]
    schedule: Schedule | None
    goals: dict[str, bool]
    terminal: tuple[dict[str, Any], ...]
    local_states: tuple[int, ...]
    stop: Stop | None = None
    collision_bound: float = 0.0
    engine: str = "python"
    startup_seconds: float = 0.0
    reduced: bool = False

    @property
    def terminal_states(self) -> int:
        """How many distinct contents a run can end with."""
        return len(self.terminal)


def inescapable(world: World, pending: Sequence[Op | None]) -> Finding:
    """A state from which no quiet state can be reached, although it is no deadlock."""
    going = [
        f"{task.name}: {op.describe()}"
        for task, op in zip(world.tasks, pending, strict=True)
        if op is not None and task.kind is not TaskKind.OPTIONAL
    ]
    return Finding(
        code="livelock/inescapable",
        message=f"no quiet state can be reached from here: {'; '.join(going)}",
        rule="from every state, quiet can be reached without optional steps",
        source="the definition of quiet",
    )
