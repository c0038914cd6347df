"""The host says that a vCPU runs by a plain store, and wipes out a flag that was set meanwhile.

    vCPU 0 (guest)                         vCPU 1 (host side)
                                           byte1 is PREEMPTED
                                           scheduled in: reads byte1: no FLUSH_TLB
    cmpxchg(byte1, PREEMPTED,
            PREEMPTED | FLUSH_TLB): won
                                           byte1 := 0
                                           enters with its old translations

KVM lost flags at the other end, too: a vCPU that was scheduled out twice stored PREEMPTED twice.
The model preempts a vCPU once before it runs again, so it cannot show that.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import pv_flush


class Vcpu(pv_flush.Vcpu):
    """Reads the byte, then clears it."""

    async def take_byte(self) -> int:
        """The fix exchanges it."""
        byte = await self.preempted
        await self.preempted.set(0)
        return byte


SPEC = Bug(
    title="a flush that the guest asks for while the vCPU is scheduled in is lost",
    year=2020,
    fix="8c6de56a42e0",
    source="KVM 8c6de56a42e0 (5.6)",
    caught_by=("architecture/translation",),
    needs=("pv-flush",),
    cve="CVE-2019-3016",
    seen="a process of the guest reads memory that was taken from it",
)
