"""A table that is used at a higher level too is left out of sync.

vCPU 0                                 vCPU 1
writes table T, shadowed at level 1
and at level 2: both left unsync
changes an entry from not present to
present: no flush is owed
                                       uses it at level 2: walks the old shadow
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import unsync
from vmm.units import Gfn


class Shadowing(unsync.Shadowing):
    """Does not ask for the level."""

    async def unsync_frame(self, gfn: Gfn) -> None:
        """The right one lets only tables of level 1 go out of sync."""
        for role, number in await self.mmu.cache.shadows(gfn):
            page = unsync.unsync_page(self.mmu.cache.pages[number])
            if role.has_gptes and not await page.unsync:
                await self.mark_unsync(page, gfn)


SPEC = Bug(
    title="tables of upper levels are left out of sync",
    source="a mutant; KVM 4731d4c7a0 (2.6.28) unsyncs level 1 only",
    points=("S52",),
    caught_by=("audit/unsync-marks",),
    needs=("unsync",),
    scenario="preempted-mid-instruction",
)
