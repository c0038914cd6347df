"""The loop of the plain stepper: ``Run.next`` and ``Run.step`` fused, for speed.

It does what they do, step for step; the loop hosts, which use them, must give the same digest, and
the tests hold them to that. Only plain reads and writes are written out again, and only where
nobody listens to their events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmm.engine.ops import Read, Write
from vmm.engine.trace import BATCH, Ending

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vmm.engine.cells import Cell
    from vmm.engine.live import Run

READ, WRITE = Read.code, Write.code


def run_through(run: Run) -> None:  # noqa: C901 - the hot loop
    """Take steps until the run is over. Errors: whatever a task raises."""
    memory, pending, waiters, audited = run.memory, run.pending, run.waiters, run.audited
    sends: list[Any] = run.sends
    records, unheard = run.records, run.unheard
    concerned = run.oracles.concerned if run.oracles and run.judges_pending else None
    pick, draw, asks = run.picker.pick, getattr(run.picker, "draw", None), run.asks_always
    ready, count, mask, last = run.ready, len(run.ready), run.mask, run.last
    for steps in range(run.steps + 1, run.step_budget + 1):
        if count == 1 and not asks:
            number = ready[0]
        elif draw is not None:
            number = ready[int(draw() * count)]
        else:
            number = pick(ready, pending, last)
        op: Any = pending[number]
        kind, event, last, blocked = op.__class__, op.event, number, False
        written: Any = None  # cells that others may wait for
        # --- take effect ---
        quiet = event is None or event.__class__ in unheard
        if quiet and kind is Read:
            cell = op.cell
            result = memory[cell.index]
            records.append((number, mask, READ, cell.tag, result))
        elif quiet and kind is Write and op.cell.place not in audited:
            cell = op.cell
            result, memory[cell.index] = None, op.value
            records.append((number, mask, WRITE, cell.tag, op.value))
            if cell.index in waiters:
                written = (cell,)
        elif quiet and not (op.writes and _any_in(audited, op.written)):
            result, record = run.carry_out(number, op)
            records.append((number, mask, op.code, 0 if op.cell is None else op.cell.tag, record))
            written, blocked = op.written or None, op.may_block
        else:
            run.steps = steps - 1
            result = run.take_effect(number, op)
            written, blocked = op.written or None, op.may_block
            if run.ending is not None:
                break
        if len(records) >= BATCH:
            run.flush_records()
        # --- on to the next op ---
        try:
            following = sends[number](result)
        except StopIteration:
            run.ended(number)
        else:
            try:
                blocks = following.may_block
            except AttributeError:
                raise run.foreign_await(number, following) from None
            if blocked or blocks:
                run.publish(number, following)
            else:
                pending[number] = following
                if concerned is not None and (judges := concerned(following)):
                    run.judge_pending(number, following, judges)
                elif written is None:
                    continue
        if written:
            run.wake(written)
        if run.mask != run.settled or run.ending is not None:
            run.steps = steps
            run.settle()
            ready, mask, count = run.ready, run.mask, len(run.ready)
            if run.ending is not None:
                break
    else:
        run.steps, run.ending = run.step_budget, Ending.STEP_BUDGET
    run.last = last


def _any_in(audited: Mapping[object, object], written: tuple[Cell[Any], ...]) -> bool:
    return bool(audited) and any(cell.place in audited for cell in written)
