"""The classic x86 litmus tests, exhaustively: what is allowed is reached, what is forbidden is not.

Rows and verdicts come from the table in ``data``. What is sequentially consistent is computed here,
by running the programs' interleavings on a dictionary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vmm.engine.cells import Cell
from vmm.engine.ops import fence
from vmm.engine.tso import add_store_buffers
from vmm.engine.world import World
from vmm.search import exhaustive, reference
from vmm.search.result import Result

TABLE = json.loads((Path(__file__).parent / "data" / "tso_classic.json").read_text("utf-8"))
Program = tuple[tuple[str, ...], ...]
Outcome = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Row:
    """One litmus test."""

    name: str
    threads: tuple[Program, ...]
    final: dict[str, int]
    allowed: bool

    @property
    def locations(self) -> list[str]:
        words = [op[1] for thread in self.threads for op in thread if op[0] != "MF"]
        return list(dict.fromkeys(words))

    @property
    def registers(self) -> list[str]:
        return [
            f"{number}:{op[2]}"
            for number, thread in enumerate(self.threads)
            for op in thread
            if op[0] == "Ld"
        ]

    def holds(self, outcome: dict[str, Any]) -> bool:
        return all(outcome[name] == value for name, value in self.final.items())


def rows() -> list[Row]:
    return [
        Row(
            name=row["name"],
            threads=tuple(tuple(tuple(op.split()) for op in thread) for thread in row["threads"]),
            final=row["final"],
            allowed=row["verdict"] == "allowed",
        )
        for row in TABLE["rows"]
    ]


async def thread(program: Program, memory: dict[str, Cell[int]], number: int) -> None:
    for op in program:
        if op[0] == "St":
            await memory[op[1]].set(int(op[2]))
        elif op[0] == "Ld":
            loaded = await memory[op[1]]
            await memory[f"{number}:{op[2]}"].set(loaded)
        else:
            await fence()


def world_of(row: Row, *, tso: bool) -> World:
    world = World(row.name)
    memory = {name: world.cell(name, 0) for name in row.locations}
    memory |= {name: world.cell(name, 0, buffered=False) for name in row.registers}
    for number, program in enumerate(row.threads):
        world.task(f"p{number}", lambda p=program, n=number: thread(p, memory, n))
    if tso:
        add_store_buffers(world)
    return world


def outcomes(result: Result) -> set[Outcome]:
    assert result.complete
    assert not result.findings
    return {tuple(sorted(end.items())) for end in result.terminal}


def consistent(row: Row) -> set[Outcome]:
    """The outcomes of all interleavings on one memory."""
    ends: set[Outcome] = set()
    start = dict.fromkeys([*row.locations, *row.registers], 0)

    def go_on(at: tuple[int, ...], memory: dict[str, int]) -> None:
        if all(n == len(program) for n, program in zip(at, row.threads, strict=True)):
            ends.add(tuple(sorted(memory.items())))
        for number, step, after in _steps(row, at, memory):
            go_on((*at[:number], step, *at[number + 1 :]), after)

    go_on((0,) * len(row.threads), start)
    return ends


def _steps(
    row: Row, at: tuple[int, ...], memory: dict[str, int]
) -> Iterator[tuple[int, int, dict[str, int]]]:
    for number, program in enumerate(row.threads):
        if at[number] < len(program):
            kind, *words = program[at[number]]
            after = dict(memory)
            if kind == "St":
                after[words[0]] = int(words[1])
            elif kind == "Ld":
                after[f"{number}:{words[1]}"] = memory[words[0]]
            yield number, at[number] + 1, after


EACH_ROW = pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)


def test_the_table_is_whole() -> None:
    verdicts = [row.allowed for row in rows()]
    assert (len(verdicts), sum(verdicts)) == (45, 21)
    assert len({row.name for row in rows()}) == 45


@EACH_ROW
def test_x86_tso(row: Row) -> None:
    """By the numpy search, and by the reference search."""
    fast = exhaustive.search(world_of(row, tso=True), monitors=False)
    ends = outcomes(fast)
    assert any(row.holds(dict(end)) for end in ends) == row.allowed
    assert consistent(row) <= ends
    slow = reference.search(world_of(row, tso=True), monitors=False)
    assert (fast.states, fast.transitions) == (slow.states, slow.transitions)
    assert outcomes(slow) == ends


@EACH_ROW
def test_sequential_consistency(row: Row) -> None:
    """Without store buffers: the interleavings and nothing else."""
    assert outcomes(exhaustive.search(world_of(row, tso=False), monitors=False)) == consistent(row)
