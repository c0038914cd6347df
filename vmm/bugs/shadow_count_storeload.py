"""An emulated store looks for shadow pages while it still waits in the store buffer.

    vCPU 0 (emulates a store)              vCPU 1 (shadows the first table)
    store gpte = Y: in its store buffer
    indirect_shadow_pages is 0
                                           ++indirect_shadow_pages
                                           reads the gpte again: X, as the walk did
                                           installs the spte of X
    no shadow to follow
    Y reaches memory

Nothing corrects the spte: the store that would have is over.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import shadow_count
from vmm.features.shadow_count import cache_of


class PteWrite(shadow_count.PteWrite):
    """Looks too early."""

    async def may_be_shadowed(self) -> bool:
        """The fix puts a full barrier behind the store; and one behind the count."""
        return await cache_of(self.mmu).indirect_shadow_pages != 0


class PageCache(shadow_count.PageCache):
    """Counts without a barrier."""

    async def count(self, change: int) -> None:
        """The fix has a full barrier here too."""
        await self.indirect_shadow_pages.set(await self.indirect_shadow_pages + change)


SPEC = Bug(
    title="an emulated store and the first shadowing fault miss each other in store buffers",
    year=2024,
    fix="226d9b8f1688",
    source="KVM 226d9b8f1688 (6.10)",
    caught_by=("audit/spte-agrees",),
    needs=("shadow-count",),
    seen="a guest uses a translation that it has replaced, for good",
)
