"""Historical bugs, one file each: the smallest override that brings the old behaviour back.

A file holds ``SPEC = Bug(...)`` and subclasses of machine components (``vmm.machine.COMPONENTS``).
A class takes the place of the component of its name; several bugs may be switched on at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """What was wrong, and who set it right.

    ``fix``: the commit. ``eras``: where the override applies. ``caught_by``: codes of the findings.
    ``seen``: what a user of the kernel would have noticed.
    """

    title: str
    year: int
    fix: str
    source: str
    eras: tuple[str, ...]
    caught_by: tuple[str, ...]
    seen: str = ""
    cve: str = ""
