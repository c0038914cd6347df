"""Hosts: what drives a run. A host's own order of doing things can never matter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from vmm.engine.hosts import direct

if TYPE_CHECKING:
    from vmm.engine.live import Run
    from vmm.engine.trace import Outcome

HOSTS = ("direct", "asyncio", "trio")


def driver(host: str) -> Callable[[Run], Outcome]:
    """What drives a run to its end on that host."""
    assert host in HOSTS, host
    if host == "direct":
        return direct.drive
    from vmm.engine.hosts import loop  # noqa: PLC0415 - the loops take long to import

    return partial(loop.drive_on, backend=host)
