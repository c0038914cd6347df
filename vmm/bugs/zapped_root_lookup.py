"""A root that was zapped, and is kept for its users, is found by a lookup and used again.

    vCPU 0 (runs on root R)                vCPU 1
                                           (host) zaps R: invalid, kept for vCPU 0
                                           loads cr3: the lookup finds R
                                           runs the guest on R

R is no longer kept in step with its guest table, which is writable by now.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import page_cache
from vmm.mmu.role import Role
from vmm.mmu.shadow_page import ShadowPage
from vmm.units import Gfn


class PageCache(page_cache.PageCache):
    """Looks pages up whether they are invalid or not."""

    async def find(self, gfn: Gfn, role: Role) -> ShadowPage | None:
        """The fix compares the whole role, ``invalid`` with it."""
        for found, number in await self.buckets[gfn]:
            if found._replace(invalid=False) == role:
                return self.pages[number]
        return None


SPEC = Bug(
    title="an invalid root, kept for its users, is found by a lookup and loaded again",
    year=2008,
    fix="2e53d63acb",
    source='KVM 2e53d63acb (2.6.26, "ignore zapped root pagetables"); schedule reconstructed',
    caught_by=("lifetime/invalid-page-walked",),
    needs=("mmu-reload",),
    seen="a guest runs on page tables that nobody keeps up to date",
)
