"""Events: what a step means, said atomically with the step.

An op may carry an event, or a pure function of its result that gives one. An event emitted as an
op of its own would let other tasks in between and give false findings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True):
    """Base of all events. A subclass says ``frozen=True`` too, and is no dataclass.

    A struct is made in a tenth of the time that a frozen dataclass takes, and most steps of a
    machine carry an event.
    """


class Goal(Event, frozen=True):
    """Something that a scenario must reach at least once, so that green is not empty."""

    name: str


class AuditPoint(Event, frozen=True):
    """A place where invariants hold; counts as a read of all cells that an audit declares."""

    name: str


EventSpec = Event | tuple[Event, ...] | Callable[[Any], "Event | tuple[Event, ...] | None"] | None


def resolve(spec: EventSpec, result: object) -> tuple[Event, ...]:
    """The events of a step with that result, none to several."""
    if spec is None:
        return ()
    if isinstance(spec, Event):
        return (spec,)
    if isinstance(spec, tuple):
        return spec
    return resolve(spec(result), result)
