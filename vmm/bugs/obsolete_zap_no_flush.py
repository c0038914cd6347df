"""Obsolete pages are freed without a flush, since no vCPU runs on them.

host (zaps all)                        vCPU 0 (root R)
acquires mmu_lock; a new generation
asks all vCPUs to reload, waits        exits, for a fault
interrupts off, says that it reads
reads R, obsolete by now: points to page S
frees R's children, S among them
reads S
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import fast_zap
from vmm.features.two_phase_zap import Prepared
from vmm.mmu.api import VcpuState


class Zap(fast_zap.Zap):
    """Trusts in the reload."""

    async def zap_batch(self, me: VcpuState | None, numbers: tuple[int, ...]) -> None:
        """The fix flushes: not for TLBs, but to wait for who reads without the lock."""
        prepared: Prepared = ()
        for number in numbers:
            prepared += await self.prepare(me, self.mmu.cache.pages[number])
        for page, header in prepared:
            await self.mmu.cache.remove(page, header)


SPEC = Bug(
    title="obsolete pages are freed under a vCPU that reads them without the lock",
    year=2013,
    fix="f34d251d66ba",
    source="a mutant of the rule that KVM f34d251d66ba (3.11) states: a flush before pages are "
    "freed, for lockless walks",
    caught_by=("lifetime/freed-under-walk",),
    needs=("fast-zap", "lockless-walk"),
    seen="KVM follows a pointer in a page that is somebody else's",
)
