"""Proof by exhaustion that a capture is exact, from nothing but what a program says.

A program is fed every history of results up to a depth. Two histories after which it is captured
alike must be followed by the same ops and ends, whatever comes next, and by equal captures.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Coroutine, Generator, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from vmm.engine.capture import Registry, capture, close
from vmm.errors import CaptureRefused

History = tuple[Any, ...]
Program = Coroutine[Any, Any, Any]
Key = Callable[[Program], Hashable]

LOOKAHEAD = 3


@types.coroutine
def op(label: Any = "op") -> Generator[Any, Any, Any]:
    """The trap: says ``label``, gives the result."""
    return (yield label)


@dataclass(frozen=True)
class Row:
    """One program, and what is claimed of it.

    ``refused`` matches the message wherever a capture is refused, which happens at least once;
    without it, none is. The captures after the two histories of a ``same`` pair are equal.
    """

    start: Callable[[], Program]
    refused: str = ""
    same: tuple[tuple[History, History], ...] = ()
    results: History = (0, 1)
    depth: int = 3


def show(value: object) -> str:
    """The value with its type, unlike ``==``, which takes True for 1."""
    said = ", ".join(map(show, value)) if isinstance(value, tuple | list) else repr(value)
    return f"{type(value).__qualname__}({said})"


class Oracle:
    """What a program does after each history, found by running it afresh."""

    def __init__(self, row: Row, key: Key) -> None:
        self.row = row
        self._key = key
        self._said: dict[History, str] = {}

    @classmethod
    def of(cls, row: Row, registry: Registry) -> Oracle:
        return cls(row, lambda coro: capture(coro, registry))

    def histories(self, length: int) -> Iterator[History]:
        for count in range(length + 1):
            yield from itertools.product(self.row.results, repeat=count)

    def said(self, history: History) -> str:
        """The op that is pending after ``history``, or how the program ended."""
        if history not in self._said:
            self._said[history] = self.trace(history)[len(history)]
        return self._said[history]

    def trace(
        self, history: History, visit: Callable[[Program], object] | None = None
    ) -> list[str]:
        """All that the program says; ``visit`` sees it at each op."""
        coro, said = self.row.start(), []
        try:
            for result in (None, *history):
                said.append(f"op {show(coro.send(result))}")
                if visit is not None:
                    visit(coro)
        except StopIteration as end:
            said.append(f"return {show(end.value)}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the program says
            said.append(f"raise {error!r}")
        close(coro)
        return said + ["over"] * (len(history) + 1 - len(said))

    def future(self, history: History) -> list[str]:
        """What follows, whatever the next results are."""
        return [self.said(history + more) for more in self.histories(LOOKAHEAD)]

    def key(self, history: History) -> Hashable | CaptureRefused:
        """The capture after ``history``, the reason against it, or how the program ended."""
        if not self.said(history).startswith("op "):
            return self.said(history)
        coro = self.row.start()
        try:
            for result in (None, *history):
                coro.send(result)
            return self._key(coro)
        except CaptureRefused as refusal:
            return refusal
        finally:
            close(coro)

    def keys(self) -> dict[History, Hashable]:
        """The captures after all histories that allow one."""
        keys = {history: self.key(history) for history in self.histories(self.row.depth)}
        return {h: key for h, key in keys.items() if not isinstance(key, CaptureRefused)}

    def merged(self) -> Iterator[tuple[History, History]]:
        """Pairs of histories with equal captures."""
        first: dict[Hashable, History] = {}
        for history, key in self.keys().items():
            other = first.setdefault(key, history)
            if other != history:
                yield other, history

    def unsound(self) -> list[tuple[History, History]]:
        """The merged pairs after which the program, or its captures, go on differently."""
        return [
            (one, two)
            for one, two in self.merged()
            if self.future(one) != self.future(two)
            or any(
                repr(self.key((*one, result))) != repr(self.key((*two, result)))
                for result in self.row.results
            )
        ]
