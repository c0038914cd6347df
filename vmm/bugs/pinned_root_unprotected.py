"""Unprotecting a table reports success although the table is a root in use and stays shadowed.

    vCPU 0 (runs on root R)                vCPU 1
                                           stores to R's guest table by an instruction
                                           that the emulator does not know: traps
                                           zaps R: emptied, but kept, since it is in use
                                           "unprotected": runs the instruction again
                                           traps again, and so on

As long as vCPU 0 stays in that address space, vCPU 1 gets nowhere.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.mmu import zap
from vmm.mmu.api import VcpuState
from vmm.units import Gfn


class Zap(zap.Zap):
    """Says what it has done, not what came of it."""

    async def zap_gfn(self, me: VcpuState | None, gfn: Gfn) -> bool:
        """The fix takes such a root out of the lookup, and makes its users load another."""
        was_shadowed = await self.mmu.cache.is_shadowed(gfn)
        await super().zap_gfn(me, gfn)
        return was_shadowed


SPEC = Bug(
    title="a table that is a root in use counts as unprotected once its shadow is emptied",
    year=2007,
    fix="2e53d63acba7",
    source="KVM 2e53d63acba7 (2.6.26); behaviour since 3bb65a22a4 and a436036baf (2.6.20)",
    caught_by=("livelock/inescapable", "guest/fault-loop"),
    seen="a vCPU of an SMP guest spins in the host for good",
)
