"""Guests of 4 and of 5 levels share shadow pages: the role does not say how deep the walk began.

    vCPU 0 (4-level paging)                vCPU 1 (5-level paging)
    loads cr3: table T
    acquire mmu_lock
    shadow S of T: a root, of level 4
    release mmu_lock
                                           faults; an entry of its root leads to T
                                           acquire mmu_lock
                                           looks up T as a table of level 4: finds S
                                           links S below its own root
                                           release mmu_lock

Tables of one level mean the same in both modes, so one shadow serves both. By this a page can be
the root of one vCPU and a child of another one's root at once, and what is done with it must mind
both its parents and its root count.

Departs from KVM: pages of PAE guests stay apart, whose entries have other reserved bits; KVM shares
them, too, since its role only says how wide an entry is.

Source: KVM 855feb673640 (2017, 4.14, 5 levels); role.cr4_pae in place of glevels (2010; a doubt:
the commit, 5b7e0102ae74, is recalled and was not confirmed).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.features import Feature
from vmm.mmu import fault, page_cache

if TYPE_CHECKING:
    from vmm.mmu.role import Role
    from vmm.mmu.shadow_page import ShadowPage
    from vmm.units import Gfn


class PageCache(page_cache.PageCache):
    """Looks pages of long modes up as those of one mode."""

    async def find(self, gfn: Gfn, role: Role) -> ShadowPage | None:
        """Look a shadow page up by its key."""
        return await super().find(gfn, shared(role))

    async def insert(self, gfn: Gfn, role: Role) -> ShadowPage:
        """Take a free page into the cache under a key."""
        return await super().insert(gfn, shared(role))


class PageFault(fault.PageFault):
    """Goes through pages whichever mode made them."""

    async def child_matches(self, child: ShadowPage, gfn: Gfn, role: Role) -> bool:
        """Whether a linked child shadows what the walk found."""
        return await super().child_matches(child, gfn, shared(role))


def shared(role: Role) -> Role:
    """The role that pages of both long modes have."""
    return role._replace(glevels=4) if role.glevels > 4 else role


SPEC = Feature(
    title="4-level and 5-level guests share shadow pages, roots among them",
    source="KVM 855feb673640 (4.14); role.cr4_pae (2010)",
    since="4.14",
    eras=("5.15", "2026"),
)
