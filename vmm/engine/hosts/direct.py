"""The plain stepper: sends by hand, no event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.fast import run_through
from vmm.engine.live import Run

if TYPE_CHECKING:
    from vmm.engine.trace import Outcome


def drive(run: Run) -> Outcome:
    """Run to the end. Errors: whatever a task raises, as itself."""
    try:
        run.begin()
        if type(run).step is Run.step and not run.keeps_steps:
            if run.ending is None:
                run_through(run)
        else:  # a run that does more with a step
            while (number := run.next()) is not None:
                run.step(number)
        return run.outcome()
    finally:
        run.close()
