"""Schedules: the choices of a run, and their printable form.

A schedule is the list of tasks that stepped, with the branch taken at each choice. Its token also
carries what was run (scenario and its fingerprint, parameters, bugs, era) and a check per stretch
of steps over (task, enabled set, op), so that a replay can say where it first differs.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from vmm.errors import ScheduleError

if TYPE_CHECKING:
    from vmm.engine.ops import Op

TOKEN_VERSION = "v1"  # noqa: S105 - a format version, not a secret
CHECKS_MAX = 1024
"""Checks in a token; longer runs have one check for several steps."""


class Picker(Protocol):
    """A strategy at work on one run. Made anew for each run, so there is nothing to reset.

    It is asked only where there is something to choose; one that must count the steps, such as
    a recorded schedule, has an attribute ``every_step`` that is true and is asked every time.
    One that picks ``enabled[int(draw() * len(enabled))]`` may offer its ``draw``, so that a fast
    loop can pick for it.
    """

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        """Choose one of the enabled tasks (never empty); ``last`` is the one that stepped last."""
        ...

    def branch(self, count: int) -> int:
        """Choose one of ``count`` ways out of a choice."""
        ...


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """The choices of a run: who stepped, and which way each choice went.

    The steps after the first ``repeats_from`` lead back to where they began: they may go on so.
    """

    tasks: bytes
    branches: tuple[int, ...] = ()
    repeats_from: int | None = None


class Origin(msgspec.Struct, frozen=True):
    """What a schedule was recorded on: enough to build the same world again."""

    scenario: str
    fingerprint: str
    params: dict[str, int | str]
    bugs: tuple[str, ...]
    era: str | None


class Recorded(msgspec.Struct, frozen=True):
    """A schedule with its origin and checks: the content of a token."""

    origin: Origin
    schedule: Schedule
    stride: int
    checks: bytes
    digest: str


def rolled(rolling: int, task: int, mask: int, tag: int) -> int:
    """The rolling check after a step: of the task, the enabled mask, the op's tag."""
    return zlib.crc32(b"%d,%d,%d" % (task, mask, tag), rolling)


def check_stride(steps: int) -> int:
    """How many steps share a check in the token of a run of that length."""
    return max(1, -(-steps // CHECKS_MAX))


def thinned(checks: bytes) -> bytes:
    """Of one check per step, those that the token keeps: each stride's last, and the very last."""
    stride = check_stride(len(checks))
    kept = checks[stride - 1 :: stride]
    return kept if len(checks) % stride == 0 else kept + checks[-1:]


def encode(recorded: Recorded) -> str:
    """The printable token: version, scenario, then compressed content with a checksum."""
    body = zlib.compress(msgspec.msgpack.encode(recorded), 9)
    crc = zlib.crc32(body).to_bytes(4, "big")
    text = base64.urlsafe_b64encode(crc + body).decode().rstrip("=")
    return f"{TOKEN_VERSION}.{recorded.origin.scenario.rpartition('/')[2]}.{text}"


def decode(token: str) -> Recorded:
    """The content of a token. Errors: ScheduleError, in one line, whatever is wrong with it."""
    version, _, rest = token.strip().partition(".")
    name, _, text = rest.rpartition(".")
    if version != TOKEN_VERSION or not name or not text:
        raise ScheduleError(
            f"not a schedule token: expected {TOKEN_VERSION}.SCENARIO.DATA, "
            f"got {token[:40]!r}; copy the whole last line of the report"
        )
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        crc, body = data[:4], data[4:]
        if zlib.crc32(body).to_bytes(4, "big") != crc:
            raise ScheduleError(
                "the schedule token is damaged or truncated: its checksum does not hold; "
                "copy the whole last line of the report"
            )
        return msgspec.msgpack.decode(zlib.decompress(body), type=Recorded)
    except (binascii.Error, zlib.error, msgspec.MsgspecError, ValueError) as error:
        raise ScheduleError(
            f"the schedule token cannot be read ({error}); copy the whole last line of the report"
        ) from error
