"""The loop of the plain stepper: ``Run.next`` and ``Run.step`` fused, for speed.

It does what they do, step for step; the loop hosts, which use them, must give the same digest, and
the tests hold them to that. Only the common kinds of op are written out again, and only where
nobody listens to their events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmm.engine.ops import Observe, Op, Read, Update, Write
from vmm.engine.trace import BATCH, Ending

if TYPE_CHECKING:
    from vmm.engine.live import Run

INLINE = dict.fromkeys((Read, Write, Update, Observe))


def run_through(run: Run) -> None:  # noqa: C901 - the hot loop
    """Take steps until the run is over. Errors: whatever a task raises."""
    memory, pending, waiters = run.memory, run.pending, run.waiters
    sends: list[Any] = [None if program is None else program.send for program in run.programs]
    records, watches_all, judges = run.records, run.watches_all, run.judges_pending
    pick, draw = run.picker.pick, getattr(run.picker, "draw", None)
    asks_always, unheard = run.asks_always, run.unheard_events()
    ready, mask, last = run.ready, run.mask, run.last
    if run.ending is not None:
        return
    for steps in range(run.steps + 1, run.step_budget + 1):
        if len(ready) == 1 and not asks_always:
            number = ready[0]
        elif draw is not None:
            number = ready[int(draw() * len(ready))]
        else:
            number = pick(ready, pending, last)
        op: Any = pending[number]
        kind, event, last = op.__class__, op.event, number
        written: Any = None
        # --- take effect ---
        if watches_all or kind not in INLINE or (event and event.__class__ not in unheard):
            run.steps = steps - 1
            result = run.take_effect(number, op)
            written = op.written
            if run.ending is not None:
                break
        elif kind is Read:
            cell = op.cell
            result = memory[cell.index]
            records.append((number, mask, op.code, cell.tag, result))
        elif kind is Observe:
            cells = op.several
            result = op.fn(*[memory[cell.index] for cell in cells], *op.args)
            records.append((number, mask, op.code, cells[0].tag, result))
        else:
            cell = op.cell
            if kind is Write:
                result, record, value = None, op.value, op.value
            else:
                record = value, result = op.fn(memory[cell.index], *op.args)
            memory[cell.index] = value
            records.append((number, mask, op.code, cell.tag, record))
            if cell.index in waiters:
                written = (cell,)
        if len(records) >= BATCH:
            run.flush_records()
        # --- on to the next op ---
        try:
            following = sends[number](result)
        except StopIteration:
            run.ended(number)
        else:
            if not isinstance(following, Op):
                raise run.foreign_await(number, following)
            if op.may_block or following.may_block or judges:
                run.publish(number, following)
            else:
                pending[number] = following
        if written:
            run.wake(written)
        if run.mask != run.settled or run.ending is not None:
            run.steps = steps
            run.settle()
            ready, mask = run.ready, run.mask
            if run.ending is not None:
                break
    else:
        run.steps, run.ending = run.step_budget, Ending.STEP_BUDGET
    run.last = last
