"""What the searches of ``vmm explore`` are given and what they hand back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmm.report.violation import Violation


@dataclass(frozen=True)
class Budget:
    """When to stop."""

    executions: int | None
    seconds: float | None
    max_states: int | None
    keep_going: bool
    max_bytes: int | None = None
    rehash: bool = False
    engine: str = "auto"
    reduce: bool = True
    jobs: int = 1


@dataclass(frozen=True)
class Explored:
    """What came of it: JSON keys of that search, lines for people, and the violations."""

    keys: dict[str, Any]
    lines: list[str]
    goals: dict[str, bool]
    violations: list[Violation]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        """130, 1, 0 or 4."""
        if self.interrupted:
            return 130
        return {"violated": 1, "clean": 0}.get(self.keys["verdict"], 4)
