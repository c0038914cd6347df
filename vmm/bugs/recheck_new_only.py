"""The gpte is read again only if the fault has made the shadow page of its table itself.

    vCPU 0                                 vCPU 1
    faults; walks without the lock: X
                                           stores gpte = Y, untrapped: not shadowed yet
                                           faults in the same table: shadows it
    acquires mmu_lock; the shadow page is
    there, so the table was protected all
    along, or so it seems: installs X

What counts is not who protected the table but when: after the walk, or before it.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import fault
from vmm.mmu.guest_walk import GuestWalk


class PageFault(fault.PageFault):
    """Trusts the walk about tables that are shadowed already."""

    async def gpte_unchanged(self, walk: GuestWalk, level: int) -> bool:
        """The fix reads the gpte again whoever has shadowed its table."""
        page = await self.mmu.cache.find(*walk.shadow_key(level))
        if page is not None and await page.present:
            return True
        return await super().gpte_unchanged(walk, level)


SPEC = Bug(
    title="gptes of tables that are shadowed already are not read again",
    year=2008,
    fix="f7d9c7b7b902",
    source="KVM f7d9c7b7b902 (2.6.25): what 7819026eef had left open",
    caught_by=("audit/spte-agrees",),
    seen="an SMP guest reads through a mapping that it has replaced, for good",
    scenario="januscape",
)
