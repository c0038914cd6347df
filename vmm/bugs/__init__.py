"""Historical bugs, one file each: the smallest override that brings the old behaviour back.

A file holds ``SPEC = Bug(...)`` and subclasses of machine components
(``vmm.components.COMPONENTS``), which are put in front of the components of their names, and of the
features'. Several bugs may be switched on at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """What was wrong, and who set it right.

    ``fix``: the commit. ``caught_by``: codes of the findings. ``needs``: features without which
    there is nothing to get wrong. ``eras``: where the override applies; none: everywhere.
    ``seen``: what a user of the kernel would have noticed.
    """

    title: str
    year: int
    fix: str
    source: str
    caught_by: tuple[str, ...]
    needs: tuple[str, ...] = ()
    eras: tuple[str, ...] = ()
    seen: str = ""
    cve: str = ""
