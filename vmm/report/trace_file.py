"""Trace files: a run, step by step, as JSON lines.

The first line is the header: ``vmm_trace`` (format version), ``scenario``, ``fingerprint``,
``params``, ``bugs``, ``era``, ``host`` and ``tasks`` (name and kind of each, in order of their
numbers). Then one line a step:

- ``step`` from 1; ``task`` (number); ``op`` (kind) and ``cells`` (names) of what took effect;
- ``enabled``: numbers of the tasks that could have stepped; ``branch``: the way out of a choice;
- ``result``: what the task got; ``changes``: cell, old and new value of what was written;
- ``events``: what the step meant, each with its ``type`` and fields;
- ``text``: the step as race tables show it.

The last line is the outcome: ``ending``, ``steps``, ``digest``, ``findings``, ``goals``. Values
that JSON cannot hold are given as text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from vmm.engine.events import Event
from vmm.engine.schedule import Origin
from vmm.engine.task import Task
from vmm.engine.trace import Outcome, TraceStep
from vmm.report.files import write_whole
from vmm.report.phrases import phrase

FORMAT = 1
_INT_MAX = 1 << 63

Line = dict[str, Any]


def write_trace(
    file: Path, origin: Origin, host: str, tasks: tuple[Task, ...], outcome: Outcome
) -> None:
    """Write the trace of a recorded run. Errors: UsageError if the file cannot be written."""
    encode = msgspec.json.Encoder(enc_hook=repr).encode
    lines = [encode(line) for line in _lines(origin, host, tasks, outcome)]
    write_whole(file, b"\n".join(lines) + b"\n")


def _lines(origin: Origin, host: str, tasks: tuple[Task, ...], outcome: Outcome) -> Iterator[Line]:
    yield {
        "vmm_trace": FORMAT,
        **msgspec.structs.asdict(origin),
        "host": host,
        "tasks": [{"name": task.name, "kind": task.kind.value} for task in tasks],
    }
    for step in outcome.trace:
        yield _step(step)
    yield {
        "ending": outcome.ending.value,
        "steps": outcome.steps,
        "digest": outcome.digest,
        "findings": [dataclasses.asdict(finding) for finding in outcome.findings],
        "goals": outcome.goals,
    }


def _step(step: TraceStep) -> Line:
    return {
        "step": step.number,
        "task": step.task.index,
        "op": step.op.kind,
        "cells": [cell.name for cell in step.op.cells],
        "enabled": [n for n in range(step.enabled.bit_length()) if step.enabled >> n & 1],
        "branch": step.branch,
        "result": _plain(step.result),
        "changes": [
            {"cell": change.cell.name, "old": _plain(change.old), "new": _plain(change.new)}
            for change in step.changes
        ],
        "events": [_event(event) for event in step.events],
        "text": phrase(step),
    }


def _event(event: Event) -> Line:
    fields = msgspec.structs.asdict(event).items()
    return {"type": type(event).__name__, **{name: _plain(value) for name, value in fields}}


def _plain(value: Any) -> Any:
    """The value itself where JSON readers agree on what it is, else its text."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not -_INT_MAX <= value < _INT_MAX:
        return hex(value)
    if value is None or type(value) in {bool, int, float, str}:
        return value
    return repr(value)
