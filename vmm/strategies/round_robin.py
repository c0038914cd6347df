"""Strict rotation: after each step it is the next task's turn."""

from __future__ import annotations

from collections.abc import Sequence

from vmm.engine.ops import Op
from vmm.strategies import Strategy


class RoundRobinPicker:
    """The first enabled task behind the one that stepped last, in a circle.

    The seed says with which task it starts and which way the first choice goes.
    """

    __slots__ = ("_branches", "_first")

    def __init__(self, seed: int) -> None:
        self._first = seed
        self._branches = seed

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        """The next one in the circle."""
        after = last if last >= 0 else (self._first - 1) % len(pending)
        return next((number for number in enabled if number > after), enabled[0])

    def branch(self, count: int) -> int:
        """Each way out in turn."""
        self._branches += 1
        return (self._branches - 1) % count


SPEC = Strategy(
    title="strict rotation: the next enabled task after every step",
    source="round-robin scheduling with a quantum of one step",
    make=RoundRobinPicker,
)
