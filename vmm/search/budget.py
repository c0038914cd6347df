"""How much memory a search may take."""

from __future__ import annotations

import os

SHARE_OF_MEMORY = 0.5
"""Of the machine, for the states of a search if nobody says otherwise."""

BYTES_UNKNOWN = 4 << 30
"""For the states of a search where the machine does not say how much memory it has."""


def default_bytes() -> int:
    """The memory that a search may take on this machine."""
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return BYTES_UNKNOWN
    return int(pages * size * SHARE_OF_MEMORY)
