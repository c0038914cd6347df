"""Store buffers: the litmus tests that tell x86-TSO from sequential consistency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vmm.engine.cells import Cell
from vmm.engine.ops import fence, wait_until
from vmm.engine.task import TaskKind
from vmm.engine.tso import STORE_BUFFER_ENTRIES, Buffer, tso_drain, tso_load, tso_store
from vmm.engine.world import World
from vmm.search.reference import search

Cells = tuple[Cell[int], ...]
Program = Callable[[Cells, Buffer, Cell[int]], Any]


async def drains(cells: Cells, buffer: Buffer) -> None:
    """The hardware that lets buffered stores reach memory."""
    while True:
        (pending,) = await wait_until(buffer, bool)
        await tso_drain(next(cell for cell in cells if cell.index == pending[0][0]), buffer)


def outcomes(*programs: Program) -> list[tuple[int, ...]]:
    """Every combination of what the programs leave in their result cells."""
    world = World("litmus")
    cells = tuple(world.cell(name, 0, observable=False) for name in "xy")
    results = [world.cell(f"r{n}", 0) for n in range(len(programs))]
    buffers: list[Buffer] = [
        world.cell(f"sb{n}", (), observable=False) for n in range(len(programs))
    ]
    for number, program in enumerate(programs):
        world.task(f"p{number}", program, cells, buffers[number], results[number])
    for number, buffer in enumerate(buffers):
        world.task(f"drain{number}", drains, cells, buffer, kind=TaskKind.EVENTUAL)
    result = search(world, monitors=False, stop_at_first=False)
    assert result.complete
    assert not result.findings
    return sorted(
        dict.fromkeys(tuple(end[cell.name] for cell in results) for end in result.terminal)
    )


def stores_then_loads(own: int, other: int, *, fenced: bool) -> Program:
    async def program(cells: Cells, buffer: Buffer, result: Cell[int]) -> None:
        await tso_store(cells[own], buffer, 1)
        if fenced:
            await fence(buffer)
        await result.set(await tso_load(cells[other], buffer))

    return program


@pytest.mark.parametrize(
    ("fenced", "expected"),
    [(False, [(0, 0), (0, 1), (1, 0), (1, 1)]), (True, [(0, 1), (1, 0), (1, 1)])],
    ids=["buffered", "fenced"],
)
def test_store_buffering(fenced: bool, expected: list[tuple[int, int]]) -> None:
    """SB: both loads may miss the other's store, unless fences stand between."""
    first = stores_then_loads(0, 1, fenced=fenced)
    second = stores_then_loads(1, 0, fenced=fenced)
    assert outcomes(first, second) == expected


def test_stores_stay_in_order() -> None:
    """MP: whoever sees the flag sees the data."""

    async def writer(cells: Cells, buffer: Buffer, result: Cell[int]) -> None:
        del result
        await tso_store(cells[0], buffer, 1)
        await tso_store(cells[1], buffer, 1)

    async def reader(cells: Cells, buffer: Buffer, result: Cell[int]) -> None:
        flag = await tso_load(cells[1], buffer)
        await result.set(10 * flag + await tso_load(cells[0], buffer))

    assert outcomes(writer, reader) == [(0, 0), (0, 1), (0, 11)]


def test_own_stores_are_forwarded() -> None:
    async def program(cells: Cells, buffer: Buffer, result: Cell[int]) -> None:
        await tso_store(cells[0], buffer, 1)
        await tso_store(cells[0], buffer, 2)
        await result.set(await tso_load(cells[0], buffer))

    assert outcomes(program) == [(2,)]


def test_a_full_buffer_blocks() -> None:
    """One store more than fits goes on only because the buffer drains."""

    async def program(cells: Cells, buffer: Buffer, result: Cell[int]) -> None:
        for value in range(STORE_BUFFER_ENTRIES + 1):
            await tso_store(cells[0], buffer, value)
        await result.set(len(await buffer))

    longest = max(length for (length,) in outcomes(program))
    assert longest == STORE_BUFFER_ENTRIES
