"""A table that maps nothing any more is given back without a flush, and so met again.

    pCPU 0 (vCPU 0)                        host
    walks: caches the PDE: table S
    S maps nothing: page fault, exits
                                           unlinks S, waits until nobody is in the guest
                                           no leaf was dropped: no flush; gives S back
    enters; walks on from S

What a processor caches of upper levels has nothing to do with whether a page was mapped below.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import zap
from vmm.mmu.api import VcpuState
from vmm.mmu.shadow_page import ShadowPage
from vmm.vcpu.flush import flusher_of

NO_REQUEST = 0


class Zap(zap.Zap):
    """Flushes for leaves alone."""

    async def zap_page(self, me: VcpuState | None, page: ShadowPage) -> None:
        """The fix flushes whenever a table is given back."""
        header = await page.header
        assert header is not None
        has_leaves = header.role.level == 1 and bool(await page.present)
        await self.unlink(page)
        if has_leaves:
            await self.flush_zapped(me)
        else:
            await flusher_of(self.mmu).ask_all(me, NO_REQUEST)
        if await page.root_count:
            await self.keep_root(me, page, header)
        else:
            await self.mmu.cache.remove(page, header)


SPEC = Bug(
    title="a freed table is walked through a paging-structure cache",
    year=2018,
    fix="706a1ea65e6f",
    source=(
        "Linux 706a1ea65e6f (2018, tables freed before the shootdown); Intel SDM vol. 3, 4.10.3, "
        "4.10.4.2"
    ),
    caught_by=("isolation/page-given-back", "lifetime/freed-under-walk"),
    seen="a processor takes somebody else's page for a page table",
)
