"""Trace files: a header, a line a step, the outcome."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vmm.engine.events import Event
from vmm.engine.hosts import driver
from vmm.engine.live import Run
from vmm.engine.ops import choose, mark
from vmm.engine.schedule import Origin
from vmm.engine.world import World
from vmm.report.trace_file import write_trace
from vmm.strategies.random import RandomPicker


class Moved(Event, frozen=True):
    frame: int
    table: object


def lines_of(tmp_path: Path) -> list[dict[str, Any]]:
    world = World("w")
    world.goals = ("done",)
    cell = world.cell("cell", (1, 1 << 70), format=lambda value: f"<{value}>")

    async def task() -> None:
        await choose(2)
        await cell.set((2, 3), event=Moved(5, Moved))
        await mark("done")

    world.task("task", task)
    run = Run(world, RandomPicker(1), record=True)
    outcome = driver("direct")(run)
    origin = Origin(scenario="w", fingerprint="00", params={"n": 1}, bugs=("b",), era="e")
    write_trace(tmp_path / "t.jsonl", origin, "direct", run.tasks, outcome)
    return [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]


def test_the_header_says_what_was_run(tmp_path: Path) -> None:
    assert lines_of(tmp_path)[0] == {
        "vmm_trace": 1,
        "scenario": "w",
        "fingerprint": "00",
        "params": {"n": 1},
        "bugs": ["b"],
        "era": "e",
        "host": "direct",
        "tasks": [{"name": "task", "kind": "foreground"}],
    }


def test_a_step_says_all_about_itself(tmp_path: Path) -> None:
    _, chosen, written, _, _ = lines_of(tmp_path)
    assert (chosen["op"], chosen["branch"], chosen["cells"]) == ("choose", 0, [])
    assert written == {
        "step": 2,
        "task": 0,
        "op": "write",
        "cells": ["cell"],
        "enabled": [0],
        "branch": None,
        "result": None,
        "changes": [{"cell": "cell", "old": [1, hex(1 << 70)], "new": [2, 3]}],
        "events": [{"type": "Moved", "frame": 5, "table": repr(Moved)}],
        "text": "write  cell = <(2, 3)>   (moved)",
    }


def test_the_outcome_comes_last(tmp_path: Path) -> None:
    last = lines_of(tmp_path)[-1]
    assert (last["ending"], last["steps"], last["goals"]) == ("quiescent", 3, {"done": True})
