"""Small programs, one per construct of Python, each with what is claimed of its capture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from tests.engine.capture_oracle import History, Program, Row, op
from vmm.engine.capture import Registry

REGISTRY = Registry()
ROWS: dict[str, Row] = {}
"""Filled by ``row``."""


def row(
    refused: str = "", *, same: tuple[tuple[History, History], ...] = (), **more: Any
) -> Callable[[Callable[[], Program]], Callable[[], Program]]:
    """Enter the decorated program under its name."""

    def enter(start: Callable[[], Program]) -> Callable[[], Program]:
        ROWS[start.__name__.replace("_", " ")] = Row(start, refused, same, **more)
        return start

    return enter


# --- what the programs share ---


@dataclass(frozen=True)
class Gate:
    """A registered lock."""

    name: str

    async def __aenter__(self) -> Self:
        await op(f"take {self.name}")
        return self

    async def __aexit__(self, *error: object) -> None:
        await op(f"give {self.name}")

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        found: int = await op("next")
        if not found:
            raise StopAsyncIteration
        return found

    def rename(self, *parts: object) -> str:
        return f"{self.name} {parts}"


GATE, OTHER = Gate("gate"), Gate("other")
for registered in (GATE, OTHER):
    REGISTRY.add(registered, registered.name)


def reset() -> None:
    """Something to do about an exception."""


def text(*values: object) -> str:
    return repr(values)


# --- locals ---


@row(same=(((0, 0), (0, 0)), ((0, 1), (0, 1))))
async def locals_hold_results() -> Any:
    x = await op()
    y = await op()
    await op()
    return x, y


@row()
async def a_conditionally_bound_local() -> Any:
    if await op():
        x = 1
    await op()
    try:
        return x
    except UnboundLocalError:
        return "unbound"


@row()
async def one_value_in_either_of_two_locals() -> Any:
    if await op():
        x = 1
    else:
        y = 1
    await op()
    try:
        return x
    except UnboundLocalError:
        return y, "y"


@row()
async def a_deleted_local() -> Any:
    x = 1
    if await op():
        del x
    await op()
    return "x" in locals()


@row(same=(((0,), (1,)),), results=(0, 1, 2))
async def a_result_that_is_dropped() -> Any:
    while await op() != 2:
        pass


@row(same=(((1, 0), ()), ((1, 1, 0), (1, 1, 1))))
async def a_loop_that_comes_back() -> Any:
    while True:
        seen = await op("look")
        if not await op("again"):
            del seen
            continue
        await op("take")


@row(results=(1, 2))
async def walrus() -> Any:
    if (x := await op()) > (y := await op()):
        return x
    return await op(), x, y


@row()
async def two_names_of_one_list() -> Any:
    x: list[int] = []
    y = x if await op() else []
    await op()
    x.append(1)
    return y


@row()
async def one_list_in_two_frames() -> Any:
    async def fill(inner: list[int]) -> None:
        await op()
        inner.append(1)

    mine: list[int] = []
    await fill(mine if await op() else [])
    return mine


@row()
async def dict_in_order() -> Any:
    d = {await op(): "a"}
    d[await op()] = "b"
    await op()
    return list(d.items())


@row()
async def dict_mutated_in_a_loop_over_its_copy() -> Any:
    d = {1: 0, 2: 0}
    for key in list(d):
        if await op():
            del d[key]
    await op()
    return d


@row("a value on the stack in function a_dict_that_grows.*: a dict changed while")
async def a_dict_that_grows_while_it_is_iterated() -> Any:
    d = {1: 0, 2: 0}
    for key in d:
        if await op():
            d[key + 10] = 0
        await op()


@row()
async def default_arguments() -> Any:
    async def inner(x: Any = GATE, *, y: Any = 2) -> Any:
        await op()
        return text(x, y)

    return await (inner(y=3) if await op() else inner(3))


@row()
async def one_of_two_coroutines() -> Any:
    async def one() -> Any:
        await op()
        return 1

    async def two() -> Any:
        await op()
        return 2

    return await (one if await op() else two)()


@row()
async def star_arguments() -> Any:
    async def inner(*args: Any, **named: Any) -> Any:
        await op()
        return text(args, named)

    return await (inner(1, k=2) if await op() else inner(1, 2))


@row()
async def a_closure_counts() -> Any:
    count = 0

    async def bump() -> None:
        nonlocal count
        count += await op()

    await bump()
    await bump()
    return count


# --- half evaluated expressions ---


@row()
async def sum_of_two() -> Any:
    return (await op()) + (await op())


@row()
async def arguments_of_a_call() -> Any:
    return text("a", await op(), await op(), await op())


@row()
async def arguments_of_a_method() -> Any:
    return (GATE if await op() else OTHER).rename(await op(), await op())


@row()
async def a_method_or_a_function_in_an_attribute() -> Any:
    return (GATE if await op() else Gate).rename(*([] if await op() else [OTHER]), await op())


@row()
async def append_to_a_list() -> Any:
    x: list[Any] = []
    x.append(await op())
    x.append(await op())
    return x


@row()
async def chained_comparison() -> Any:
    return 0 <= await op() < await op() <= await op()


@row(results=("a", "b"))
async def membership() -> Any:
    return (await op()) in {"a", "c"}, await op()


@row()
async def short_circuits() -> Any:
    return (await op() and await op()) or (await op(), not await op())


@row()
async def f_string() -> Any:
    return f"{await op()}-{await op()!r:>4}"


@row()
async def displays() -> Any:
    return [await op(), (await op(), {await op(): 1})]


@row()
async def star_unpacking() -> Any:
    return text(*[await op(), await op()], *(await op(),))


@row()
async def subscript_and_slice() -> Any:
    x = [[1, 2], [3, 4]]
    x[await op()][await op()] += await op("plus")
    return x


@row()
async def conditional_expression() -> Any:
    return (await op("a") if await op() else await op("b")), await op()


@row()
async def sort_with_a_key() -> Any:
    pivot = await op()
    return sorted([await op(), 5, 3], key=lambda item: -item if pivot else item)


# --- statements ---


@row(results=(0, 1, (1, 2), (3,)))
async def match_statement() -> Any:
    found = await op()
    match found:
        case (one, two):
            return await op(), one, two
        case (one,):
            await op()
            return one
        case other:
            return await op(), other


@row()
async def while_else() -> Any:
    tries = 0
    while await op():
        tries += 1
        if tries == 2:
            break
    else:
        return await op(), tries
    return await op()


@row()
async def for_else_with_continue() -> Any:
    for item in (1, 1, 2):
        if not await op():
            continue
        return item
    else:  # noqa: PLW0120
        return await op()


@row()
async def try_finally() -> Any:
    done = []
    try:
        done.append(await op("body"))
    finally:
        done.append(await op("finally"))
    return done


@row(same=(((1,), (0,)),))
async def an_exception_that_was_handled() -> Any:
    try:
        1 // (await op())
    except ZeroDivisionError:
        reset()
    return await op("after")


@row()
async def an_exception_that_left_its_mark() -> Any:
    try:
        1 // (await op())
    except ZeroDivisionError as error:
        what = str(error)
    else:
        what = "fine"
    return await op(), what


@row("a live exception in function an_op_in_except, line [0-9]+: an op in except")
async def an_op_in_except() -> Any:
    try:
        1 // (await op())
    except ZeroDivisionError:
        return await op("handler")


@row("a live exception in function an_op_in_finally_on_the_way_out")
async def an_op_in_finally_on_the_way_out() -> Any:
    try:
        1 // (await op())
    finally:
        await op("finally")


@row("a live exception in function an_exception_through_async_with")
async def an_exception_through_async_with() -> Any:
    async with GATE:
        return 1 // (await op())


@row("variable 'kept' in function an_exception_that_is_kept.*ZeroDivisionError is an exception")
async def an_exception_that_is_kept() -> Any:
    kept = None
    try:
        1 // (await op())
    except ZeroDivisionError as error:
        kept = error
    await op()
    return repr(kept)


@row()
async def async_with() -> Any:
    async with GATE if await op() else OTHER:
        x = await op()
    return x, await op()


@row()
async def nested_async_with() -> Any:
    async with GATE as one, OTHER:
        x = await op()
        async with OTHER if x else one:
            pass
    return x


@row()
async def async_for() -> Any:
    total = 0
    async for x in GATE:
        total += x
    return total
