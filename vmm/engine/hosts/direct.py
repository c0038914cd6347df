"""The plain stepper: sends by hand, no event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmm.engine.live import Run
    from vmm.engine.trace import Outcome


def drive(run: Run) -> Outcome:
    """Run to the end. Errors: whatever a task raises, as itself."""
    following, step = run.next, run.step
    try:
        run.begin()
        while (number := following()) is not None:
            step(number)
        return run.outcome()
    finally:
        run.close()
