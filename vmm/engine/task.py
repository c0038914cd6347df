"""Tasks: the coroutine programs of a world and how they count towards its end."""

from __future__ import annotations

import enum
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from vmm.engine.ops import Op

Program = Coroutine[Op, Any, None]


class TaskKind(enum.Enum):
    """How a task counts towards quiet, deadlock and livelock."""

    FOREGROUND = "foreground"
    """Has an end; a run is quiet only when all of these have ended."""
    DAEMON = "daemon"
    """A foreground task that loops by design: nobody waits for its end."""
    EVENTUAL = "eventual"
    """Hardware that will act: IPI delivery, a store buffer's drain."""
    OPTIONAL = "optional"
    """Hardware that may act: eviction, speculation."""


@dataclass(frozen=True, slots=True)
class Task:
    """One program: ``start()`` gives a fresh coroutine, always of the same behaviour.

    ``through`` turns what it publishes into what its processor does; None: the same.
    """

    index: int
    name: str
    kind: TaskKind
    start: Callable[[], Program]
    through: Callable[[Any], Any] | None = None

    def __repr__(self) -> str:
        return f"<task {self.name}>"
