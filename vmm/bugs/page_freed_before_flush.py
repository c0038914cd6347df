"""A host page goes back to the host's allocator before the TLBs are flushed.

host                                   vCPU 0
runs the guest, the page in its TLB
acquires mmu_lock; drops the sptes
gives the page back
uses the page, which is somebody else's
flushes: too late; releases mmu_lock

An spte held a reference of its page, and it was put as the spte left the rmap, the flush being
still to come. Derived from the notifier series, which lets the host free the page after the flush.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import host_paging
from vmm.features.host_paging import slots_of
from vmm.units import Gfn


class Host(host_paging.Host):
    """A host that is short of memory."""

    async def reclaim(self, gfn: int) -> bool:
        """The fix flushes before the page may go."""
        mmu, zapped = self.vm.mmu, False
        async with mmu.lock:
            for ref in await mmu.rmap.chains[Gfn(gfn)]:
                page = mmu.cache.pages[ref.page]
                zapped = await mmu.zap.drop_spte(page, 1, ref.index) or zapped
            taken = await slots_of(self).give_back(Gfn(gfn))
            if zapped:
                await mmu.zap.flush_zapped(None)
        return taken


SPEC = Bug(
    title="a host page is freed while remote TLBs still map it",
    year=2008,
    fix="e930bffe95e1",
    source=(
        "KVM: the context of e930bffe95e1 (2.6.27), a doubt: R; Linux CVE-2018-18281 is the same "
        "order in mremap"
    ),
    caught_by=("isolation/page-given-back",),
    needs=("host-paging",),
    seen="a guest reads or writes a page that the host has given to somebody else",
)
