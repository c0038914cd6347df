"""A table that maps itself is mapped writable again while it is synced.

    vCPU 0 (loads cr3; table T is unsync and has an entry that maps T)
    acquire mmu_lock
    write-protect T; flush
    read T's entries: the one that maps T allows writes; T is unsync, so it may be written
    T's shadow: unsync := 0
    release mmu_lock

T is writable through itself although its shadow counts as up to date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import unsync
from vmm.mmu.shadow_page import Header

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState


class Shadowing(unsync.Shadowing):
    """Clears the mark last."""

    async def sync_page(self, me: VcpuState, page: unsync.ShadowPage, header: Header) -> None:
        """The fix clears it first."""
        await self.write_protect(me, header.gfn)
        await self.follow_gptes(me, page, header)
        await self.clear_unsync(page, header.gfn)


SPEC = Bug(
    title="a page counts as unsync while it is synced, so that it may map its own table writable",
    year=2008,
    fix="0c0f40bdbe4",
    source="KVM 0c0f40bdbe4 (2.6.28)",
    caught_by=("audit/write-protection",),
    needs=("unsync",),
)
