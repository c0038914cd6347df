"""Uniformly random choices."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from vmm.engine.ops import Op
from vmm.strategies import Strategy


class RandomPicker:
    """Every enabled task is as likely as any other, at every step."""

    __slots__ = ("draw",)

    def __init__(self, seed: int) -> None:
        # Of all that Random offers, only random() promises the same numbers in every version.
        self.draw = Random(seed).random

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        """Any of the enabled tasks."""
        return enabled[int(self.draw() * len(enabled))]

    def branch(self, count: int) -> int:
        """Any way out."""
        return int(self.draw() * count)


SPEC = Strategy(
    title="any enabled task, all equally likely",
    source="a random walk; the baseline of Thomson et al., TOPC 2016",
    make=RandomPicker,
)
