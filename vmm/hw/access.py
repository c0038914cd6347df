"""Kinds of guest access, and the rule that says whether a translation permits one.

Source: Intel SDM vol. 3, 4.6 (access rights) and 4.7 (error code).
"""

from __future__ import annotations

from typing import NamedTuple

from vmm.bits import NX, PFERR_FETCH, PFERR_PRESENT, PFERR_USER, PFERR_WRITE, U, W


class AccessKind(NamedTuple):
    """One access as the paging unit sees it."""

    write: bool = False
    user: bool = False
    fetch: bool = False


LOAD = AccessKind()
STORE = AccessKind(write=True)


def permits(rights: int, kind: AccessKind, *, write_protect: bool) -> bool:
    """Whether combined ``rights`` (W, U, NX bits) allow an access; ``write_protect`` is CR0.WP."""
    if kind.user and not rights & U:
        return False
    if kind.fetch and rights & NX:
        return False
    return not kind.write or bool(rights & W) or not (kind.user or write_protect)


def error_code(kind: AccessKind, *, present: bool) -> int:
    """The #PF error code of a refused access."""
    return (
        (PFERR_PRESENT if present else 0)
        | (PFERR_WRITE if kind.write else 0)
        | (PFERR_USER if kind.user else 0)
        | (PFERR_FETCH if kind.fetch else 0)
    )


class GuestFault(NamedTuple):
    """A page fault that the guest sees: a value, not an exception."""

    gva: int
    error_code: int
