"""An spte that goes tells nobody that its page was used.

    vCPU 0                                 host threads
    uses frame g: an spte maps it
                                           a table is zapped; the spte of g goes, and nobody is told
                                           the host ages g: no spte, no flag: old
                                           g is swapped out, though in use

With EPT of the time sptes had no accessed bit. KVM looked for one when an spte went, found none,
and took the page for unused.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import page_flags
from vmm.units import Pfn


class SetSpte(page_flags.SetSpte):
    """Looks for a bit that is not there."""

    async def set_flags(self, pfn: Pfn, *, accessed: bool, dirty: bool) -> None:
        """The fix takes every spte for accessed where there is no bit."""
        del accessed
        if dirty:
            await super().set_flags(pfn, accessed=False, dirty=True)


SPEC = Bug(
    title="the use of a page is forgotten when its spte is dropped",
    year=2010,
    fix="daa3db693ce9",
    source="KVM daa3db693ce9 (2.6.36, page accessed tracking lost with EPT); a doubt: recalled",
    caught_by=("accessed/lost",),
    needs=("page-flags",),
    seen="the host swaps out what the guest needs most",
)
