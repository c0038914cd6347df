"""What an access asks of the paging unit, and the exceptions that it may get for an answer.

``vmm.hw.paging`` has the rules.
"""

from __future__ import annotations

from typing import NamedTuple


class AccessKind(NamedTuple):
    """One access as the paging unit sees it.

    ``implicit``: a supervisor access that no instruction asked for, to a descriptor table or a
    task-state segment, at any CPL. ``user`` is False then.
    """

    write: bool = False
    user: bool = False
    fetch: bool = False
    implicit: bool = False


LOAD = AccessKind()
STORE = AccessKind(write=True)


class GuestFault(NamedTuple):
    """A page fault that the guest sees: a value, not an exception."""

    gva: int
    error_code: int


class GeneralProtection(NamedTuple):
    """#GP(0), a value too: ``value`` is the address, or what was to go into a control register."""

    value: int
