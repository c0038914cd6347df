"""The role of a shadow page: what, beside its gfn, makes it the right one to use.

Source: KVM cea0f0e7ea (2007), d28c6cfbbc (2007, access bits).
"""

from __future__ import annotations

from typing import NamedTuple

from vmm.bits import describe_rights


class Role(NamedTuple):
    """``level`` 1..4 of this shadow table.

    ``direct`` pages shadow no guest table but a stretch of a large guest page (KVM of the time:
    metaphysical); ``access`` are the rights that the upper levels of the guest walk leave over.
    ``owner`` is 0 for shared pages; without the cache, the vCPU number plus one. ``invalid`` pages
    are zapped, but still in use: no lookup finds them.
    """

    level: int
    direct: bool
    access: int
    owner: int = 0
    invalid: bool = False

    def __str__(self) -> str:
        words = (" direct" if self.direct else "") + (" invalid" if self.invalid else "")
        return f"l{self.level}{words} {describe_rights(self.access)}"

    @property
    def has_gptes(self) -> bool:
        """Whether its sptes follow gptes, so that their table must stay write-protected."""
        return not self.direct and not self.invalid
