"""The error tree. Guest faults and findings are values, never exceptions.

Every error carries a stable ``code`` (slug) and the exit code of the command line contract.
"""

from __future__ import annotations

from typing import ClassVar


class VmmError(Exception):
    """Anything that vmm raises on purpose; the message is one clear line."""

    code: ClassVar[str] = "vmm/error"
    exit_code: ClassVar[int] = 3


class UsageError(VmmError):
    """Bad input: the message says what, where, and how to mend it."""

    code = "usage"
    exit_code = 2


class CaptureRefused(UsageError):
    """A task keeps something alive at an op that is not plain local state."""

    code = "capture/refused"


class ForeignAwait(UsageError):
    """A task awaited something that is not an op of the model."""

    code = "task/foreign-await"


def missing_feature(who: str, feature: str) -> UsageError:
    """``who`` does what a machine can do only with the feature."""
    return UsageError(
        f'{who} does what needs the feature {feature}: give the machine features=("{feature}",)'
    )


class ScheduleError(UsageError):
    """A schedule token or file that cannot be read."""

    code = "schedule/unreadable"


class StaleSchedule(ScheduleError):
    """A schedule that was recorded on another version of its scenario."""

    code = "schedule/stale"


class Diverged(VmmError):
    """A replay whose steps differ from the recorded ones although the scenario is the same.

    ``step`` is the first step that differs.
    """

    code = "replay/diverged"

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Nondeterminism(VmmError):
    """One schedule, two different runs: a task broke the rule of plain local state."""

    code = "task/nondeterministic"


class InternalError(VmmError):
    """A bug in vmm itself."""

    code = "vmm/bug"

    def __str__(self) -> str:
        return f"[vmm bug] {super().__str__()}"
