"""Programs that differ only in what they hold across an op, or loop over: one row each."""

from __future__ import annotations

import collections
import enum
import functools
import io
import itertools
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.engine.capture_oracle import Row, op
from tests.engine.capture_programs import GATE, OTHER, Gate

ROWS: dict[str, Row] = {}

# --- loops over every kind of iterator ---


async def loop(items: Callable[[], Any], stop: Any) -> Any:
    for item in items():
        if await op("step") == stop:
            return item
        del item
    return "end"


ITERABLES: dict[str, Callable[[], Any]] = {
    "range": lambda: range(4),
    "long range": lambda: range(1 << 70, (1 << 70) + 3),
    "list": lambda: [7, 7, 7],
    "tuple": lambda: (7, 7, 7),
    "string": lambda: "aaa",
    "wide string": lambda: "\u20ac\u20ac\u20ac",
    "bytes": lambda: b"aaa",
    "dict": lambda: {1: 0, 2: 0, 3: 0},
    "dict values": {1: 0, 2: 0, 3: 0}.values,
    "dict items": {1: 0, 2: 0, 3: 0}.items,
    "enumerate": lambda: enumerate([7, 7]),
    "zip": lambda: zip([7, 7], (7, 7), strict=True),
    "zip of one iterator": lambda: zip(*[iter([7] * 6)] * 2, strict=False),
    "reversed list": lambda: reversed([7, 7, 7]),
    "reversed tuple": lambda: reversed((7, 7, 7)),
    "reversed range": lambda: reversed(range(3)),
    "map": lambda: map(str, [7, 7, 7]),
    "filter": lambda: filter(None, [7, 7, 7]),
    "all at once": lambda: enumerate(zip(map(str, (7, 7)), reversed([7, 7]), strict=False)),
}
for name, items in ITERABLES.items():
    ROWS[f"loop over {name}"] = Row(functools.partial(loop, items, 1))
ON_STACK = "a value on the stack in function loop, line .* a {} is neither"
for name, kind, items in (
    ("callable", "callable_iterator", lambda: iter(lambda: 1, 2)),
    ("set", "set_iterator", lambda: {7}),
    ("reversed dict", "dict_reversekeyiterator", lambda: reversed({7: 7})),
    ("enumerated set", "set_iterator", lambda: enumerate({7})),
):
    ROWS[f"loop over {name}"] = Row(functools.partial(loop, items, 1), ON_STACK.format(kind))


# --- values of every type, held across an op ---


class Colour(enum.IntEnum):
    RED = 1
    SAME = 1


class Access(enum.Flag, boundary=enum.KEEP):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    one: Any
    two: Any


class Gfn(int):
    """An int with a type of its own."""


class Name(str):
    """A str with a type of its own."""

    __slots__ = ()


@dataclass(frozen=True)
class Record:
    one: Any
    two: Any = None


@dataclass(frozen=True, slots=True)
class Slotted:
    one: Any


@dataclass
class Mutable:
    one: Any


@dataclass(frozen=True, eq=False)
class ByIdentity:
    one: Any


class Slots:
    __slots__ = ("one",)


def plus(one: int, two: int = 1, *, three: int = 0) -> int:
    return one + two + three


def adder(count: int) -> Callable[[], int]:
    """A function with a cell, a default and a keyword default."""

    def add(two: int = count, *, three: int = count) -> int:
        return count + two + three

    return add


def knot(value: Any) -> Any:
    """A list that holds itself, and what to say of it."""
    held: list[Any] = [value]
    held.append(held)
    return held


async def hold(make: Callable[[Any], Any], look: Callable[[Any], Any]) -> Any:
    x = make(await op("pick"))
    del make  # or its own values would tell
    await op("hold")
    return look(x)


def itself(value: Any) -> Any:
    return value


def called(value: Any) -> Any:
    return value()


def of(*values: Any) -> Callable[[int], Any]:
    return lambda result: values[result]


def grown(pair: Any) -> Any:
    """Whether both are one list, told by writing to it."""
    pair[0].append(1)
    return pair


VALUES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "bool or int": (of(1, True), itself),
    "float or int": (of(1, 1.0), itself),
    "zeros": (of(0.0, -0.0), itself),
    "complex": (of(1j, complex(-0.0, 1)), itself),
    "IntEnum or int": (of(1, Colour.RED), itself),
    "flags": (lambda r: Access.READ | Access.WRITE if r else Access.READ, itself),
    "no flags": (lambda r: Access(0) if r else Access.READ, itself),
    "unnamed flags": (lambda r: Access(8 << r), itself),
    "namedtuple or tuple": (lambda r: Pair(1, 2) if r else (1, 2), itself),
    "subclass of int": (Gfn, itself),
    "int subclass or int": (lambda r: Gfn(1) if r else 1, itself),
    "str subclass or str": (lambda r: Name("a") if r else "a", itself),
    "bytes or str": (of("a", b"a"), itself),
    "big ints": (lambda r: (1 << 200) + r, itself),
    "nested tuples": (of(((1,),), ((True,),)), itself),
    "list or tuple": (lambda r: [1] if r else (1,), itself),
    "Ellipsis or None": (of(..., None), itself),
    "ranges": (of(range(0), range(2, 1)), itself),
    "slices": (lambda r: slice(r, None), itself),
    "frozen dataclass": (lambda r: Record(1, r), itself),
    "frozen dataclass with slots": (lambda r: Slotted(bool(r)), itself),
    "record in a list in a record": (lambda r: Record([Record(r)]), itself),
    "order of a dict": (lambda r: {1: 2, 3: 4} if r else {3: 4, 1: 2}, lambda x: list(x.items())),
    "lambda over a local": (lambda r: lambda: r, called),
    "lambdas of one line": (of(lambda: 0, lambda: 1), called),
    "lambdas that differ in a name": (
        of(lambda: GATE.name, lambda: GATE.rename),
        lambda x: x.__code__.co_names,
    ),
    "lambdas that differ in an operator": (of(lambda: 3 + len("a"), lambda: 3 - len("a")), called),
    "default": (lambda r: lambda x=r: x, called),
    "keyword default": (lambda r: lambda *, x=r: x, called),
    "cells and defaults": (adder, called),
    "partial": (lambda r: functools.partial(plus, 1, three=r), called),
    "bound method": (lambda r: (OTHER if r else GATE).rename, called),
    "bound method of a list": (lambda r: [r].copy, called),
    "builtin function": (of(abs, repr), lambda x: x(-1)),
    "unbound method": (of(str.upper, str.lower), lambda x: x("aB")),
    "class": (of(int, str), called),
    "registered objects": (of(GATE, OTHER), lambda x: x.name),
    "aliased lists": (lambda r: [[]] * 2 if r else [[], []], grown),
    "a list in itself": (knot, lambda x: x[1][1][0]),
    "iterator in a local": (lambda r: iter([r]), lambda x: [*x, *x]),
    "exhausted iterator": (lambda r: iter([] if r else [1]), lambda x: [*x]),
}
ROWS |= {f"hold {name}": Row(functools.partial(hold, *how)) for name, how in VALUES.items()}
SAME: dict[str, Callable[[Any], Any]] = {
    "strings": lambda r: str(r)[:0] + "ab",
    "big ints": lambda r: (1 << 99) + r - r,
    "tuples": lambda r: (1, ["a"]) if r else (1, list("a")),
    "functions": lambda r: adder(3 + r - r),
    "enum aliases": lambda r: Colour.SAME if r else Colour.RED,
}
for name, make in SAME.items():
    start = functools.partial(hold, make, bool)
    ROWS[f"hold equal {name}"] = Row(start, same=(((0,), (1,)),))


def nest(inner: Any, _: int) -> Any:
    return (inner,)


async def keep(make: Callable[[], Any]) -> Any:
    x = make()
    await op()
    return type(x).__name__


UNORDERED, FOREIGN = "a (frozen)?set has no stable order", r"a \S+ is neither plain"
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "set": (lambda: {1}, UNORDERED),
    "frozenset": (lambda: frozenset((1,)), UNORDERED),
    "set inside": (lambda: [(0, {"k": {1}})], UNORDERED),
    "object": (object, FOREIGN),
    "instance": (lambda: Mutable(1), FOREIGN),
    "slots": (Slots, FOREIGN),
    "record without equality": (lambda: ByIdentity(1), FOREIGN),
    "exception": (lambda: KeyError(1), "KeyError is an exception"),
    "nan": (lambda: [float("nan")], "nan is not equal to itself"),
    "module": (lambda: sys, "a module is not local state"),
    "file": (io.StringIO, FOREIGN),
    "weak reference": (lambda: weakref.ref(Gate), FOREIGN),
    "lock": (threading.Lock, FOREIGN),
    "memoryview": (lambda: memoryview(b"a"), FOREIGN),
    "bytearray": (bytearray, FOREIGN),
    "dict view": ({1: 2}.items, FOREIGN),
    "defaultdict": (lambda: collections.defaultdict(int), FOREIGN),
    "OrderedDict": (collections.OrderedDict, FOREIGN),
    "Counter": (collections.Counter, FOREIGN),
    "deque": (collections.deque, FOREIGN),
    "itertools": (itertools.count, FOREIGN),
    "callable iterator": (lambda: iter(int, 1), FOREIGN),
    "frame": (sys._getframe, FOREIGN),
    "local class": (lambda: type("Local", (), {}), "class Local is not what its module has"),
    "deep nesting": (lambda: functools.reduce(nest, range(9999), ()), "it is nested too deeply"),
}
for name, (make_one, reason) in REFUSED.items():
    where = rf"variable 'x' in function keep, line \d+: {reason}"
    ROWS[f"keep {name}"] = Row(functools.partial(keep, make_one), where, depth=1)
