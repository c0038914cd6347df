"""The parts of a capture by themselves: registry, value keys, code, closing, self-test."""

from __future__ import annotations

import collections
import contextlib
import enum
import gc
import sys
import types
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.capture_oracle import Program, op
from vmm.engine import capture as module
from vmm.engine import capture_values
from vmm.engine.capture import Registry, capture, close, self_test, value_key
from vmm.engine.capture_code import CodeFacts
from vmm.errors import CaptureRefused, UsageError


class Colour(enum.Enum):
    RED = 1


class Tagged(int):
    """An int that can carry attributes."""


class Slotted(str):
    """A str with a slot."""

    __slots__ = ("tag",)


@dataclass(frozen=True, slots=True)
class Record:
    one: Any
    two: Any


@dataclass(frozen=True)
class Child(Record):
    three: Any


@dataclass(frozen=True)
class Queue(collections.deque[int]):
    one: Any


@dataclass(frozen=True)
class Failure(Exception):
    one: Any


class Op:
    """Stands for the ops of an engine."""

    def __init__(self, name: str) -> None:
        self.name = name


def suspended(coro: Program, *results: Any) -> Program:
    for result in (None, *results):
        coro.send(result)
    return coro


# --- registry ---


def test_a_registered_object_has_one_number_and_a_name() -> None:
    registry = Registry()
    one, two = object(), object()
    assert [registry.add(one, "one"), registry.add(two, "two"), registry.add(one, "1")] == [0, 1, 0]
    assert registry.number_of(two) == 1
    assert registry.number_of(object()) is None
    assert registry.name_of(0) == "one"


def test_numbers_go_by_identity() -> None:
    registry = Registry()
    registry.add([], "empty")
    assert registry.number_of([]) is None


def test_what_is_registered_late_is_not_read_as_before() -> None:
    registry, value = Registry(), (Record(1, 2),)
    assert "record" in repr(value_key(value, registry))
    registry.add(value[0], "record")
    assert value_key(value, registry) == ("tuple", ("registered", 0))


def test_few_keys_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_values, "RECALLED", 3)
    registry = Registry()
    keys = [value_key((number,), registry) for number in range(5)]
    assert keys == [("tuple", number) for number in range(5)]
    assert [value for value, _ in registry.recalled.values()] == [(3,), (4,)]


def test_a_registered_object_is_kept_alive() -> None:
    class Model:
        pass

    registry, model = Registry(), Model()
    alive = weakref.ref(model)
    registry.add(model, "model")
    del model
    gc.collect()
    assert alive() is not None


def test_a_registered_class_may_be_local() -> None:
    @dataclass(frozen=True)
    class Local:
        one: int

    registry = Registry()
    with pytest.raises(CaptureRefused, match=r"class .*Local is not what its module has"):
        value_key(Local(1), registry)
    registry.add(Local, "Local")
    assert value_key(Local(1), registry) == value_key(Local(1), registry)
    assert value_key(Local(1), registry) != value_key(Local(2), registry)


# --- value keys ---


LEAVES = (0, 1, True, 1.0, -1.0, "", "a", b"a", None, ..., Colour.RED, Tagged(1), len, range(1))
Step = tuple[type, list[int]]
Steps = st.lists(
    st.tuples(
        st.sampled_from([list, tuple, dict, Record]), st.lists(st.integers(0, 5), max_size=3)
    ),
    min_size=1,
    max_size=6,
)


def build(leaves: list[Any], steps: list[Step]) -> Any:
    """A value whose parts may share parts."""
    nodes = list(leaves)
    for kind, picks in steps:
        parts = [nodes[-1 - pick % len(nodes)] for pick in picks]
        if kind is dict:
            nodes.append(dict(enumerate(parts)))
        elif kind is Record:
            nodes.append(Record(*[*parts, 0, 0][:2]))
        else:
            nodes.append(kind(parts))
    return nodes[-1]


def alike(one: Any, two: Any, there: dict[int, Any], back: dict[int, Any]) -> bool:
    """Whether a one-to-one mapping of mutable parts makes ``two`` of ``one``: the long way."""
    if type(one) is not type(two):
        return False
    if isinstance(one, list | dict):
        if id(one) in there or id(two) in back:
            return there.get(id(one)) is two and back.get(id(two)) is one
        there[id(one)], back[id(two)] = two, one
    if isinstance(one, Record):
        one, two = (one.one, one.two), (two.one, two.two)
    if isinstance(one, dict):
        one, two = [*one.items()], [*two.items()]
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(
            alike(a, b, there, back) for a, b in zip(one, two, strict=True)
        )
    return repr(one) == repr(two)


Leaves = st.lists(st.sampled_from(LEAVES), min_size=1, max_size=3)


@given(Leaves, Steps, Leaves, Steps)
def test_keys_are_equal_exactly_for_values_that_are_alike(
    leaves: list[Any], steps: list[Step], others: list[Any], more: list[Step]
) -> None:
    registry = Registry()
    values = [build(which, how) for which in (leaves, others) for how in (steps, more)]
    values.append(build(leaves, steps))
    for one in values:
        for two in values:
            equal = value_key(one, registry) == value_key(two, registry)
            assert equal == alike(one, two, {}, {})


def test_a_list_may_hold_itself() -> None:
    registry = Registry()

    def knot() -> list[Any]:
        held: list[Any] = []
        held.append(held)
        return held

    assert value_key(knot(), registry) == value_key(knot(), registry)
    assert value_key(knot(), registry) != value_key([[]], registry)


def test_a_slot_may_be_unset() -> None:
    registry, bare = Registry(), object.__new__(Record)
    assert value_key(bare, registry) != value_key(Record(None, None), registry)
    object.__setattr__(bare, "two", 1)
    assert value_key(bare, registry) == value_key(bare, registry)


def test_fields_of_base_classes_count() -> None:
    registry = Registry()
    keys = [value_key(Child(*fields), registry) for fields in [(0, 0, 0), (1, 0, 0), (0, 0, 1)]]
    assert len(dict.fromkeys(keys)) == 3


def test_temporaries_are_no_aliases() -> None:
    spent = [iter([1]) for _ in range(3)]
    for iterator in spent:
        assert next(iterator) == 1
        assert next(iterator, None) is None
    key = value_key(spent, Registry())
    assert isinstance(key, tuple)
    assert key[1:] == key[1:2] * 3


def tagged() -> Tagged:
    value = Tagged(1)
    value.tag = 2  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize(
    "value", [tagged(), Slotted(), Queue(1), Failure(1), type(Failure(1))("a")]
)
def test_state_in_an_odd_place_is_refused(value: object) -> None:
    with pytest.raises(CaptureRefused):
        value_key(value, Registry())


def test_a_refused_value_goes_by_the_name_given() -> None:
    with pytest.raises(CaptureRefused, match=r"^cell spte\[3\]: a set has no stable order"):
        value_key({1}, Registry(), "cell spte[3]")


# --- coroutines ---


async def waits(*held: object) -> Any:
    return held, await op("wait")


def test_op_key_speaks_for_the_objects_of_the_engine() -> None:
    def op_key(value: object) -> Any:
        return ("my op", value.name) if isinstance(value, Op) else NotImplemented

    async def program(name: str) -> None:
        await op(Op(name))

    keys: dict[Hashable, list[str]] = {}
    for name in "aab":
        coro = suspended(program(name[:]))
        with pytest.raises(CaptureRefused, match="variable 'label' in function op, line"):
            capture(coro, Registry())
        keys.setdefault(capture(coro, Registry(), op_key=op_key), []).append(name)
        close(coro)
    assert list(keys.values()) == [["a", "a"], ["b"]]


def test_what_op_key_does_not_know_is_refused() -> None:
    coro = suspended(waits(object()))
    with pytest.raises(CaptureRefused, match=r"variable 'held' in function waits, line \d+: a obj"):
        capture(coro, Registry(), op_key=lambda _: None)
    close(coro)


def test_a_coroutine_that_is_not_at_an_op_is_refused() -> None:
    fresh, ended = waits(), suspended(waits())
    close(ended)
    for coro in (fresh, ended):
        with pytest.raises(CaptureRefused, match="function waits is not suspended at an op"):
            capture(coro, Registry())
        close(coro)


def test_a_coroutine_cannot_capture_itself() -> None:
    async def narcissus() -> Any:
        return capture(mirror[0], Registry())

    mirror: list[Program] = [narcissus()]
    with pytest.raises(CaptureRefused, match="narcissus is not suspended at an op"):
        mirror[0].send(None)


KEPT: list[ValueError] = []


async def fails_and_goes_on() -> Any:
    try:
        int("")
    except ValueError as error:
        KEPT.append(error)
    return await op()


def test_a_traceback_that_holds_the_frame_changes_nothing() -> None:
    keys = []
    for _ in range(2):
        coro = suspended(fails_and_goes_on())
        keys.append(capture(coro, Registry()))
        KEPT.clear()
        keys.append(capture(coro, Registry()))
        close(coro)
    assert keys == keys[:1] * 4


# --- code ---


def answer(value: int) -> int:
    return value + 1 if value in {1, 2} else 0


def test_a_label_outlives_specialisation() -> None:
    before = CodeFacts.of(answer.__code__).label
    for value in range(5000):
        answer(value)
    assert CodeFacts.of(answer.__code__).label == before


def compiled(source: str) -> types.CodeType:
    code = compile(source, "task", "exec")
    return next(const for const in code.co_consts if isinstance(const, types.CodeType))


SOURCE = "def f(x, *, y=1):\n  z = {'a', 'b'}\n  return [x.name for w in (1, 2.0)] in (1, True)\n"


def test_equal_code_has_equal_labels() -> None:
    assert CodeFacts.of(compiled(SOURCE)).label == CodeFacts.of(compiled(SOURCE)).label


@pytest.mark.parametrize(
    ("old", "new"), [("(1, True)", "(1, 1)"), ("2.0", "2"), (".name", ".size"), ("] in", "] !=")]
)
def test_other_code_has_another_label(old: str, new: str) -> None:
    other = compiled(SOURCE.replace(old, new))
    assert CodeFacts.of(other).label != CodeFacts.of(compiled(SOURCE)).label


# --- closing ---


def log_of(program: Callable[[list[str]], Program], *results: Any) -> list[str]:
    """What a program does when it is closed after ``results``."""
    log: list[str] = []
    coro = suspended(program(log), *results)
    close(coro)
    assert getattr(coro, "cr_frame", None) is None
    return log


def test_close_goes_through_ops_in_finally() -> None:
    async def program(log: list[str]) -> None:
        try:
            try:
                await op()
            finally:
                await op()
        finally:
            log.append("outer")
            await op()
            log.append("never")

    assert log_of(program) == ["outer"]


def test_close_goes_through_async_with() -> None:
    class Gate:
        async def __aenter__(self) -> None:
            await op("enter")

        async def __aexit__(self, *error: object) -> None:
            await op("exit")

    async def program(log: list[str]) -> None:
        async with Gate(), Gate():
            await op("body")

    assert log_of(program, None, None) == []


def test_close_ignores_what_cleanup_raises() -> None:
    async def program(log: list[str]) -> None:
        try:
            await op()
        finally:
            log.append("cleanup")
            raise KeyError

    assert log_of(program) == ["cleanup"]


def test_close_of_a_coroutine_that_never_started() -> None:
    close(waits())


def test_close_gives_up_on_what_swallows_everything() -> None:
    async def undying() -> None:
        while alive:
            with contextlib.suppress(GeneratorExit):
                await op()

    alive = [1]
    coro = suspended(undying())
    with pytest.raises(UsageError, match="undying does not end when it is closed"):
        close(coro)
    alive.clear()
    close(coro)


# --- the interpreter ---


def test_this_interpreter_is_supported() -> None:
    assert self_test() is None


@pytest.mark.parametrize("hidden", [list, tuple, range])
def test_an_interpreter_that_hides_loops_is_noticed(
    monkeypatch: pytest.MonkeyPatch, hidden: type
) -> None:
    iterator = type(iter(hidden([]) if hidden is not range else range(0)))
    show = gc.get_referents

    def referents(*values: object) -> list[Any]:
        return [value for value in show(*values) if type(value) is not iterator]

    monkeypatch.setattr(gc, "get_referents", referents)
    assert f"does not show the place of a loop over a {hidden.__name__}" in str(self_test())


def test_an_interpreter_that_hides_ints_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    show = gc.get_referents

    def referents(*values: object) -> list[Any]:
        return [value for value in show(*values) if type(value) is not int]

    monkeypatch.setattr(gc, "get_referents", referents)
    assert "does not show half evaluated expressions" in str(self_test())


def test_an_interpreter_that_shows_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "get_referents", lambda *_: [])
    reason = str(self_test())
    assert "does not show coroutines at all" in reason
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in reason
    assert "\n" not in reason
    assert module.self_test is self_test
