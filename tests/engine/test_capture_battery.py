"""Every small program is captured exactly, or refused by name.

The oracle, which runs a program under all histories of results, is the judge of "exactly".
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Generator, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, NewType

import pytest

from tests.engine import capture_programs, capture_tables
from tests.engine.capture_oracle import Oracle, Program, op
from tests.engine.capture_programs import GATE, REGISTRY, row
from tests.processes import said_elsewhere
from vmm.engine.capture import Remembered, capture
from vmm.errors import CaptureRefused

INLINED = sys.version_info >= (3, 12)  # comprehensions run in the frame around them

# --- comprehensions ---


@row()
async def list_comprehension() -> Any:
    return [await op() for _ in range(2)]


@row()
async def dict_comprehension_with_a_condition() -> Any:
    return {key: value for key, value in [(1, 2), (1, 3)] if await op()}


@row()
async def nested_comprehension() -> Any:
    return [[await op() for _ in (0, 0)] for _ in (0, 0)]


@row("a value on the stack in function set_comp|a set has no stable order")
async def set_comprehension() -> Any:
    return {await op() for _ in (0, 0)}


@row("variable '.*' in function .*a generator cannot|generator that is not awaited")
async def generator_expression() -> Any:
    x = (y for y in (1, 2))
    await op()
    return next(x)


@row()
async def comprehension_over_an_outer_name() -> Any:
    if await op():
        x = "outer"
    [await op() for x in (1, 1)]
    await op("after")
    try:
        return x
    except UnboundLocalError:
        return "unbound"


@row("variables 'x', 'y' in function comprehension_over" if INLINED else "")
async def comprehension_over_two_outer_names() -> Any:
    if await op():
        x = "outer"
    else:
        y = "outer"
    [await op() for x, y in [(1, 1)]]
    try:
        return x
    except UnboundLocalError:
        return y, "y"


@row()
async def comprehension_over_one_outer_name_of_two() -> Any:
    if await op():
        x = "outer"
    [await op() for x, y in [(1, 1)]]
    try:
        return x
    except UnboundLocalError:
        return "unbound"


@row()
async def an_op_after_a_comprehension_over_outer_names() -> Any:
    x, y = await op(), await op()
    squares = [(x, y) for x, y in [(1, 1)]]
    return await op(), x, y, squares


@row()
async def async_comprehension() -> Any:
    return [x async for x in GATE]


@row("variables 'x', 'y' in function comprehension_over_arguments.*inner" if INLINED else "")
async def comprehension_over_arguments_that_may_be_gone() -> Any:
    async def inner(x: Any, y: Any) -> Any:
        if await op():
            del x
        else:
            del y
        [await op() for x, y in [(1, 1)]]
        return sorted(locals())

    return await inner("outer", "outer")


# --- what is awaited ---


Gpa = NewType("Gpa", int)


@dataclass(frozen=True)
class Plain:
    """An awaitable that is a frozen record, of each kind that Python knows."""

    how: str

    def __await__(self) -> Generator[Any, Any, Any]:
        if self.how == "coroutine":
            return ask().__await__()
        if self.how == "iterator":
            return iter(("op", "op"))  # type: ignore[return-value]
        return self.steps()

    def steps(self) -> Generator[Any, Any, Any]:
        if self.how == "wrapped":
            return (yield from ask().__await__())
        return (yield "op")


async def ask(label: Any = "op") -> Any:
    return await op(label)


async def awaiting(inner: Awaitable[Any]) -> Any:
    return await inner


@row()
async def awaitables_of_every_kind() -> Any:
    return [await Plain(how) for how in ("generator", "coroutine", "wrapped")]


@row(same=(((0,), (1,)),))
async def a_coroutine_or_its_wrapper() -> Any:
    return await (ask() if await op("which") else Plain("coroutine")), await op()


@row("an await in function .*foreign_iterator, line [0-9]+: a tuple_iterator has no frame")
async def an_awaitable_with_a_foreign_iterator() -> Any:
    await Plain("iterator")


@row()
async def a_coroutine_in_a_local_while_it_is_awaited() -> Any:
    mine = ask("mine")
    x = await mine
    y = await op()
    try:
        await mine
    except RuntimeError as error:
        return str(error), x, y


@row(results=(0, 1, 2))
async def recursion() -> Any:
    async def down() -> Any:
        said = await op()
        return [await down(), said] if said else said

    return await down()


@row()
async def a_local_names_one_link_of_what_is_awaited() -> Any:
    pick = await op()
    inner = op()
    outer = awaiting(inner)
    link = outer if pick else inner
    del pick, inner
    await outer
    return type(link).__name__


@row("variable 'later' in function a_coroutine_for_later, line .* a coroutine that is not awaited")
async def a_coroutine_for_later() -> Any:
    later = ask("later")
    try:
        await op()
    finally:
        later.close()


@row("async_generator")
async def an_async_generator() -> Any:
    async def numbers() -> AsyncIterator[Any]:
        yield await op()

    async for number in numbers():
        await op(number)


@row("variable 'x' in function a_generator_in_a_local, line .* a generator that is not awaited")
async def a_generator_in_a_local() -> Any:
    def numbers() -> Iterator[int]:
        yield 1

    x = numbers()
    await op()
    return next(x)


@row()
async def a_new_type_called_with_a_result() -> Any:
    return Gpa(await op()), await op()


@row("variable 'y' in function refused_inside.<locals>.inner")
async def refused_inside() -> Any:
    async def inner() -> Any:
        y = bytearray(b"y")
        return await op(), y

    return await inner()


# --- the judgement ---

ROWS = capture_programs.ROWS | capture_tables.ROWS


@pytest.fixture(params=ROWS, ids=lambda name: str(name).replace(" ", "-"))
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return Oracle.of(ROWS[request.param], REGISTRY)


def test_equal_captures_have_equal_futures(oracle: Oracle) -> None:
    assert oracle.unsound() == []


def test_captures_are_not_too_fine(oracle: Oracle) -> None:
    for one, two in oracle.row.same:
        assert oracle.key(one) == oracle.key(two)


def test_a_program_is_exact_or_refused_by_name(oracle: Oracle) -> None:
    keys = [oracle.key(history) for history in oracle.histories(oracle.row.depth)]
    refusals = [str(key) for key in keys if isinstance(key, CaptureRefused)]
    assert bool(refusals) == bool(oracle.row.refused)
    for refusal in refusals:
        assert re.search(oracle.row.refused, refusal)
        assert "\n" not in refusal


def test_capturing_changes_nothing(oracle: Oracle) -> None:
    def visit(coro: Program) -> None:
        with contextlib.suppress(CaptureRefused):
            assert capture(coro, REGISTRY) == capture(coro, REGISTRY)

    for history in oracle.histories(oracle.row.depth):
        assert oracle.trace(history, visit) == oracle.trace(history)


def test_what_is_remembered_is_what_would_be_read(oracle: Oracle) -> None:
    for history in oracle.histories(oracle.row.depth):
        remembered: Remembered = []
        keys: list[tuple[Hashable, Hashable]] = []

        def visit(
            coro: Program,
            remembered: Remembered = remembered,
            keys: list[tuple[Hashable, Hashable]] = keys,
        ) -> None:
            with contextlib.suppress(CaptureRefused):
                quick = capture(coro, REGISTRY, remembered=remembered)
                REGISTRY.recalled.clear()
                keys.append((quick, capture(coro, REGISTRY)))

        oracle.trace(history, visit)
        assert all(quick == thorough for quick, thorough in keys)


def places(coro: Any) -> tuple[int, ...]:
    """Where each level stands, without its values."""
    frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None)
    if frame is None:
        return ()
    return (frame.f_lasti, *places(getattr(coro, "cr_await", None)))


def test_a_naive_key_is_found_out(oracle: Oracle) -> None:
    if not oracle.row.refused and not oracle.row.same:
        assert Oracle(oracle.row, places).unsound()


def test_the_battery_is_large() -> None:
    assert len(ROWS) >= 60
    assert sum(bool(row.refused) for row in ROWS.values()) >= 15


def digest() -> str:
    """Of the captures of all programs."""
    keys = [Oracle.of(row, REGISTRY).keys() for row in ROWS.values()]
    return hashlib.sha256(repr(keys).encode()).hexdigest()


def test_captures_are_the_same_in_every_process() -> None:
    program = f"import sys, {__name__} as battery; sys.stdout.write(battery.digest())"
    assert said_elsewhere(program) == digest()
