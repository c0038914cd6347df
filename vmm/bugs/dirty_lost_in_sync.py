"""A sync makes an spte read-only, and nobody is told that its page was written.

    vCPU 0                                 host (takes frame g)
    writes g through a writable spte
    makes the gpte read-only, no trap
    loads cr3: the sync takes W from the spte
                                           zaps the spte of g: W = 0, so the page is clean
                                           drops the page without writing it to disk

That an spte was writable is all that says that its page is dirty.
"""

from __future__ import annotations

from vmm.bits import P
from vmm.bugs import Bug
from vmm.features import page_flags


class SetSpte(page_flags.SetSpte):
    """Looks at sptes that go."""

    async def track_bits(self, old: int, new: int) -> None:
        """The fix looks at those that change, too."""
        if not new & P:
            await super().track_bits(old, new)


SPEC = Bug(
    title="a page is taken for clean since its spte lost W in a sync",
    year=2010,
    fix="9ed5520dd3c9",
    source="KVM 9ed5520dd3c9 (2.6.36)",
    caught_by=("dirty/lost",),
    needs=("page-flags", "unsync"),
    seen="a guest whose memory was swapped finds old data in it",
)
