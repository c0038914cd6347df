"""Traces: the digest of a run, and its steps as records for reports and files.

The digest is over (task, enabled set, op kind, cell name, what was read or written) of every step,
so it is the same on every host, under every hash seed and in every process, or the runs differ.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from vmm.engine.events import Event
from vmm.engine.monitor import Change, Finding
from vmm.engine.ops import Op
from vmm.engine.task import Task

BATCH = 2048
"""Steps encoded and hashed at once; batching is what makes the digest cheap."""


class Ending(enum.Enum):
    """How a run ended."""

    QUIESCENT = "quiescent"
    FINDING = "finding"
    DEADLOCK = "deadlock"
    STEP_BUDGET = "step-budget"


@dataclass(frozen=True, slots=True)
class TraceStep:
    """One step of a recorded run. ``enabled`` is a mask of task indexes; ``branch`` of a choice."""

    number: int
    task: Task
    op: Op
    enabled: int
    result: Any
    changes: tuple[Change, ...]
    events: tuple[Event, ...]
    branch: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    ending: Ending
    steps: int
    digest: str
    findings: tuple[Finding, ...]
    goals: dict[str, bool]
    tasks: bytes
    branches: tuple[int, ...]
    trace: tuple[TraceStep, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """What the counting monitors counted."""

    @property
    def switches(self) -> int:
        """How often the stepping task changed."""
        return sum(a != b for a, b in zip(self.tasks, self.tasks[1:], strict=False))


def op_tag(op: Op) -> int:
    """A number for (kind, first cell) that does not depend on the order of first touch."""
    return op.code << 32 | (op.cell.tag if op.cell is not None else 0)


def _plain(value: object) -> object:
    """What msgspec cannot encode on its own: by type name and text."""
    return [type(value).__name__, repr(value)]


class Digest:
    """A running hash of steps, fed in batches of ``BATCH`` (the last one may be shorter)."""

    __slots__ = ("_encoder", "_hash")

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_plain)

    def feed(self, steps: list[Any]) -> None:
        """Add the records of some steps."""
        try:
            self._hash.update(self._encoder.encode(steps))
        except OverflowError:  # an int beyond 64 bits
            self._hash.update(repr(steps).encode())

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()
