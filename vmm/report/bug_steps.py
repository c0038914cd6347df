"""Which steps of a run are a bug's: where its overrides were entered.

What a bug leaves out leaves no trace of its own. So a live run is watched by the interpreter's
profiler, which tells of every function that is entered.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from inspect import getdoc, isfunction
from types import CodeType, FrameType
from typing import Any

from vmm.components import own_components
from vmm.discovery import discover
from vmm.engine.live import Run
from vmm.engine.trace import Outcome
from vmm.search.replay import Drive

OF_THE_FIX = "The fix "
"""How the docstring of an override begins that says what is missing or elsewhere in it."""


@dataclass(frozen=True, slots=True)
class BugStep:
    """An override that was entered by ``task`` after its step ``after``."""

    after: int
    task: int
    name: str
    says: str

    @property
    def text(self) -> str:
        """As race tables have it."""
        return f"bug    {self.name}" + (f": {self.says}" if self.says else "")


class BugSteps:
    """Watches runs of a world with these bugs; keeps the last entry of each task and override.

    Overrides that do not say what the fix does are left out if others do.
    """

    def __init__(self, bugs: Iterable[str]) -> None:
        known = discover("vmm.bugs")
        said = {
            member.__code__: (name, (getdoc(member) or "").partition("\n")[0].rstrip("."))
            for bug in bugs
            for _, cls in own_components(known[bug])
            for name, member in vars(cls).items()
            if isfunction(member)
        }
        of_the_fix = {code: step for code, step in said.items() if step[1].startswith(OF_THE_FIX)}
        self._codes: dict[CodeType, tuple[str, str]] = of_the_fix or said
        self._last: dict[tuple[int, str], BugStep] = {}

    @property
    def found(self) -> list[BugStep]:
        """In the order in which they were entered."""
        return sorted(self._last.values(), key=lambda step: (step.after, step.task, step.name))

    def watching(self, drive: Drive) -> Drive:
        """The same, but watched."""

        def watched(run: Run) -> Outcome:
            entered: list[FrameType] = []  # kept, so that each is another object

            def note(frame: FrameType, event: str, _: Any) -> None:
                step = self._codes.get(frame.f_code)
                if event != "call" or step is None or any(frame is other for other in entered):
                    return
                entered.append(frame)
                task = run.last if run.steps else len(run.sends) - 1  # they begin one by one
                self._last[task, step[0]] = BugStep(run.steps, task, *step)

            before = sys.getprofile()
            sys.setprofile(note)
            try:
                return drive(run)
            finally:
                sys.setprofile(before)

        return watched
