"""All pages are zapped by zapping until none is left, with lock breaks.

    host                                   vCPU 0 (goes on for ever)
    acquires mmu_lock; zaps some pages
    releases mmu_lock
                                           faults: builds as many
    acquires mmu_lock; there are pages:
    zaps some, the same again

A livelock that luck may end: the vCPU may come too late. KVM did so in 2019 for half a year.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import fast_zap
from vmm.mmu.api import VcpuState


class Zap(fast_zap.Zap):
    """Knows no generations."""

    async def zap_all(self, me: VcpuState | None) -> None:
        """The fix says first which pages are to go."""
        await self.zap_obsolete(me)

    async def pages_to_zap(self) -> tuple[int, ...]:
        """Every page that is there now."""
        cache = self.mmu.cache
        found: tuple[int, ...] = ()
        for number in await cache.active:
            header = await cache.pages[number].header
            if header is not None and not header.role.invalid:
                found = (*found, number)
        return found


SPEC = Bug(
    title="zapping all pages never ends while vCPUs build new ones",
    year=2019,
    fix="92f58b5c01",
    source="KVM 5304b8d37c (3.11), lost by ea145aacf4 (5.1), restored by 92f58b5c01 (5.4)",
    caught_by=("livelock/fair",),
    needs=("fast-zap",),
    seen="a memory slot cannot be deleted while the guest is busy",
)
