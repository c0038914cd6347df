"""The loop of the plain stepper: ``Run.next`` and ``Run.step`` fused, for speed.

It does what they do, step for step; the loop hosts, which use them, must give the same digest, and
the tests hold them to that. What is fused is only the common case: reads, writes, no event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmm.engine.ops import Choose, Op, Read, Write
from vmm.engine.trace import BATCH, Ending

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.live import Run

Before = tuple[tuple["Cell[Any]", Any], ...]


def run_through(run: Run) -> None:
    """Take steps until the run is over. Errors: whatever a task raises."""
    memory, pending, records, chosen = run.memory, run.pending, run.records, run.chosen
    sends = [None if program is None else program.send for program in run.programs]
    blockers, watches_all, pick = run.blockers, run.watches_all, run.picker.pick
    asks_always, judges = run.asks_always, run.judges_pending
    ready, last, budget = run.ready, run.last, run.step_budget - run.steps
    while run.ending is None:
        if len(chosen) >= budget:
            run.ending = Ending.STEP_BUDGET
            break
        number = ready[0] if len(ready) == 1 and not asks_always else pick(ready, pending, last)
        op = pending[number]
        assert op is not None
        # --- take effect ---
        watched = op.event is not None or watches_all
        before: Before = ()
        if watched and op.writes:
            before = tuple([(cell, memory[cell.index]) for cell in op.written])
        kind = op.__class__
        wakes: Any = False
        tag = 0
        if kind is Read:
            cell = op.cell
            result = record = memory[cell.index]  # type: ignore[union-attr]
            tag = cell.tag  # type: ignore[union-attr]
        elif kind is Write:
            cell = op.cell
            result, record = None, op.value  # type: ignore[attr-defined]
            memory[cell.index] = record  # type: ignore[union-attr]
            tag = cell.tag  # type: ignore[union-attr]
            wakes = blockers.get(cell.index)  # type: ignore[union-attr]
        elif kind is Choose:
            result = record = run.branch(op)
        else:
            result, record = op.run(memory, number)
            if op.cell is not None:
                tag = op.cell.tag
            if op.writes:
                wakes = any([blockers.get(c.index) for c in op.written])  # noqa: C419 - faster
        records.append((number, run.mask, op.code, tag, record))
        if len(records) == BATCH:
            run.digest.feed(records)
            records.clear()
        chosen.append(number)
        last = number
        if watched:
            run.steps, run.last = len(chosen), number
            run.watch(number, op, result, before)
            if run.ending is not None:
                break
        # --- on to the next op ---
        try:
            following = sends[number](result)  # type: ignore[misc]
        except StopIteration:
            following = None
            run.ended(number)
        else:
            if not isinstance(following, Op):
                raise run.foreign_await(number, following)
            pending[number] = following
        blocks = following is None or following.may_block
        if op.may_block:
            run.count_blocker(op, -1)
        if blocks and following is not None:
            run.count_blocker(following, 1)
        if judges and following is not None:
            run.judge_pending(number, following)
        if wakes or blocks:
            run.refresh()
            ready = run.ready
    run.steps, run.last = len(chosen), last
