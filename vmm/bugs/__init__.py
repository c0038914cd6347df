"""Bugs, one file each: the smallest override that brings the old behaviour back.

Most are historical. The others, mutants, never were in a kernel: each takes away a step that
matters though no release is known to have lacked it. A file holds ``SPEC = Bug(...)`` and
subclasses of machine components (``vmm.components.COMPONENTS``), which are put in front of the
components of their names, and of the features'. Several bugs may be switched on at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """What was wrong, and who set it right.

    ``fix``: the commit, and its ``year``; a mutant has none. ``caught_by``: codes of the findings,
    what a search finds first. ``needs``: features without which there is nothing to get wrong.
    ``eras``: where the override applies; none: everywhere. ``seen``: what a user of the kernel
    would have noticed. ``scenario``: which one shows it; none: the one of its name, or one whose
    ``bugs`` name it.
    """

    title: str
    source: str
    caught_by: tuple[str, ...]
    year: int | None = None
    fix: str = ""
    needs: tuple[str, ...] = ()
    eras: tuple[str, ...] = ()
    seen: str = ""
    cve: str = ""
    scenario: str = ""
    points: tuple[str, ...] = ()

    @property
    def historical(self) -> bool:
        """Whether a kernel had it; otherwise it is a mutant."""
        return bool(self.fix)
