"""Strategies: who steps next. One file each; the file name is the name, ``SPEC`` the contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmm.engine.schedule import Picker


@dataclass(frozen=True)
class Strategy:
    """A way of choosing schedules.

    ``make(seed)`` gives a fresh picker for one run; the same seed always gives the same choices,
    on every interpreter and host. None: it needs more than a seed, so the caller makes it.
    """

    title: str
    source: str
    make: Callable[[int], Picker] | None
