"""What a search hands back."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from vmm.engine.monitor import Finding
from vmm.engine.schedule import Schedule


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
    what expanded the states at last: python, numpy or numba, on ``jobs`` threads;
    ``startup_seconds`` are those that went into importing numba and compiling. ``reduced``: the
    counts are those of a search with partial-order reduction.
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
    jobs: int = 1
    startup_seconds: float = 0.0
    reduced: bool = False

    @property
    def terminal_states(self) -> int:
        """How many distinct contents a run can end with."""
        return len(self.terminal)
