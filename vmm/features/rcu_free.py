"""RCU: who walks the shadow without mmu_lock is in a read section, and pages are freed after it.

    vCPU 0 (walks)                         vCPU 1 or host (zaps page S)
    rcu read lock
    reads an spte: points to S
                                           acquire mmu_lock; unlink S
                                           flush: waits for processors in the guest, not for vCPU 0
                                           a reader is inside: wait
    reads S
    rcu read unlock
                                           S goes back to the pool

The other way to keep pages in place under a lockless walk: nothing is said to those who flush, and
interrupts stay on. A flush is still owed to processors, which walk the shadow without any section.

KVM had it from 3.1 to 3.4, with a count of readers beside it, so that pages were freed at once if
there were none, as here. Since 5.12 the pages of the TDP MMU are freed so.

Departs from KVM, which leaves the freeing to a callback: here who zaps waits for the readers, with
mmu_lock held. They take no lock, so it ends.

Source: KVM c2a2ac2b56 (2011, 3.1), replaced by c142786c62 (2012, 3.5); 7cca2d0b7e7d (2021, 5.12,
the hash is recalled).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmm.engine.grace import NOBODY, make_srcu
from vmm.engine.ops import mark
from vmm.features import Feature, lockless_walk
from vmm.mmu import page_cache

if TYPE_CHECKING:
    from vmm.engine.cells import Lock
    from vmm.engine.world import World
    from vmm.hw.access import AccessKind
    from vmm.mmu.api import FaultResult
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import Header, ShadowPage
    from vmm.units import Gva
    from vmm.vcpu.vcpu import Vcpu


class PageCache(page_cache.PageCache):
    """Pages with readers. ``rcu`` says who is inside."""

    def __init__(self, world: World, lock: Lock, capacity: int, **others: Any) -> None:
        super().__init__(world, lock, capacity, **others)
        self.rcu = make_srcu(world, "rcu")

    async def remove(self, page: ShadowPage, header: Header) -> None:
        """Give an empty page back to the pool, once nobody can have found it."""
        await self.wait_for_readers()
        await super().remove(page, header)

    async def wait_for_readers(self) -> None:
        """Wait for those who may be in a page that is unlinked already."""
        if (await self.rcu).inside != NOBODY:
            await mark("freeing waits for a reader")
            await self.rcu.synchronize()


class PageFault(lockless_walk.PageFault):
    """Looks at the shadow in a read section."""

    async def look_protected(self, vcpu: Vcpu, gva: Gva, kind: AccessKind) -> FaultResult | None:
        """What the fault comes to, if the shadow tells; no page is freed meanwhile."""
        rcu = cache_of(self.mmu).rcu
        under = await rcu.read_lock()
        result = await self.look(vcpu, gva, kind)
        await rcu.read_unlock(under)
        return result


def cache_of(mmu: ShadowMmu) -> PageCache:
    """The page cache of a machine with this feature."""
    assert isinstance(mmu.cache, PageCache)
    return mmu.cache


SPEC = Feature(
    title="lockless walks are read sections, and pages are freed after those that had begun",
    source="KVM c2a2ac2b56 (3.1), 7cca2d0b7e7d (5.12)",
    since="5.12",
    needs=("lockless-walk",),
    locks={"mmu_lock": "held while the readers of a page that goes are waited for"},
)
