"""The asyncio and trio hosts: every task of a world is a real task of the loop.

Each is parked at a gate of its own, and exactly one is let go at a time: the one that steps passes
the turn on by opening the next one's gate. So the loop's order of wake-ups can't matter, and other
tasks of the loop may run beside the run as they like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from vmm.engine.live import Run
    from vmm.engine.trace import Outcome

STEPS_PER_CHECKPOINT = 256
"""Steps that one task may take in a row before the loop gets a turn (timeouts, cancellation)."""


class _Turns:
    """Whose turn it is: one gate per task, one of them open at most."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.gates = [anyio.Event() for _ in run.tasks]
        self.failure: Exception | None = None

    def open(self, number: int | None) -> None:
        """Let one task go; all of them when the run is over."""
        if number is None:
            for gate in self.gates:
                gate.set()
        else:
            self.gates[number].set()

    async def body(self, number: int, scope: anyio.CancelScope) -> None:
        """One task of the world as a task of the loop."""
        run = self.run
        try:
            while run.ending is None and run.pending[number] is not None:
                await self.gates[number].wait()
                self.gates[number] = anyio.Event()
                await self.take_turns(number)
        except Exception as failure:  # noqa: BLE001 - it is raised again, outside the group
            self.failure = failure
            scope.cancel()

    async def take_turns(self, number: int) -> None:
        """Step while it is this task's turn, then pass it on."""
        run, steps = self.run, 0
        if run.ending is not None:
            return
        run.step(number)
        while (following := run.next()) == number:
            steps += 1
            if steps % STEPS_PER_CHECKPOINT == 0:
                await anyio.lowlevel.checkpoint()
            run.step(number)
        self.open(following)


async def drive(run: Run) -> Outcome:
    """Run to the end on the loop that is running now.

    Errors: a failure of one task cancels the rest and surfaces as itself, not in a group.
    Cancelling the caller cancels all tasks of the run.
    """
    turns = _Turns(run)
    try:
        run.begin()
        turns.open(run.next())  # out here, so that what it raises surfaces as itself
        async with anyio.create_task_group() as group:
            for task in run.tasks:
                group.start_soon(turns.body, task.index, group.cancel_scope, name=task.name)
        if turns.failure is not None:
            raise turns.failure
        return run.outcome()
    finally:
        run.close()


def drive_on(run: Run, backend: str) -> Outcome:
    """Run to the end on a loop of its own: ``asyncio`` or ``trio``."""
    return anyio.run(drive, run, backend=backend)
