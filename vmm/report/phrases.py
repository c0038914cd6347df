"""One step in one phrase: ``write  gpte 0x1000[0] = gfn 4 w``."""

from __future__ import annotations

import re
from typing import Any

from vmm.engine.cells import Cell
from vmm.engine.events import AuditPoint, Event, Goal
from vmm.engine.ops import Atomically, Cas, Choose, Observe, Op, Read, Update, WaitUntil, Write
from vmm.engine.trace import TraceStep
from vmm.engine.tso import BehindBuffer, Buffered, Drain, bare

_KIND_WIDTH = 6


def phrase(step: TraceStep) -> str:
    """What a step did, with the values it read or wrote and what it meant."""
    notes = [note for event in step.events if (note := _note(event))]
    meaning = f"   ({', '.join(dict.fromkeys(notes))})" if notes else ""
    return f"{_action(step)}{meaning}"


def intent(op: Op) -> str:
    """An op that has not taken effect."""
    match op:
        case BehindBuffer():
            return intent(op.inner)
        case Write():
            return _line("write", f"{op.cell.name} = {shown(op.cell, op.value)}")
        case Cas():
            return _line("cas", f"{op.cell.name} {shown(op.cell, op.old)} -> {_new(op)}")
        case _:
            text = op.describe().lstrip("_")
            rest = text.removeprefix(op.kind)
            return text if rest == text else _line(op.kind, rest.strip())


def shown(cell: Cell[Any], value: Any) -> str:
    """A cell's value as its owner wants it read."""
    return cell.format(value)


def _action(step: TraceStep) -> str:
    op, result = step.op, step.result
    if isinstance(op, Buffered) and op.stores:
        return f"{intent(op)}   (buffered)"
    op = bare(op)
    match op:
        case Read():
            return _line("read", f"{op.cell.name} = {shown(op.cell, result)}")
        case Drain():
            return _line("drain", _drained(step, op))
        case Cas():
            return f"{intent(op)}   {'ok' if result else 'failed'}"
        case Update():
            return _line("update", _changes(step) or f"{op.cell.name}, unchanged")
        case WaitUntil():
            return _line("saw", _values(op, result))
        case Choose():
            return _line("choose", f"{step.branch} of 0..{op.branches - 1}")
        case _ if step.changes and not op.may_block and op.kind not in {"write", "release"}:
            name = getattr(getattr(op, "fn", None), "__name__", op.kind)
            return f"{name.strip('_').replace('_', ' ')}: {_changes(step)}"
        case Atomically():
            return f"{intent(op)}: no change"
        case Observe():
            return _line("read", ", ".join(cell.name for cell in op.cells))
        case _:
            return intent(op)


def _line(kind: str, rest: str) -> str:
    return f"{kind:<{_KIND_WIDTH}} {rest}".rstrip()


def _new(op: Cas) -> str:
    return shown(op.cell, op.new)


def _changes(step: TraceStep) -> str:
    """The cells that changed; indexes and other cells nobody should look at only if alone."""
    changes = [change for change in step.changes if change.cell.observable] or step.changes
    return ", ".join(f"{c.cell.name} = {shown(c.cell, c.new)}" for c in changes)


def _drained(step: TraceStep, op: Drain) -> str:
    """The cells that a store has reached, each with its value if that is new."""
    new = {change.cell: change.new for change in step.changes}
    return ", ".join(
        [
            f"{c.name} = {shown(c, new[c])}" if c in new else f"{c.name}, unchanged"
            for c in op.several
        ]
    )


def _values(op: WaitUntil, values: tuple[Any, ...]) -> str:
    pairs = zip(op.cells, values, strict=True)
    return ", ".join(f"{cell.name} = {shown(cell, value)}" for cell, value in pairs)


def _note(event: Event) -> str:
    """The event's name in words; goals and audit points are no news to a reader."""
    if isinstance(event, Goal | AuditPoint):
        return ""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", type(event).__name__).lower()
