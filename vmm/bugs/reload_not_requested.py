"""A root in use is made invalid, and nobody tells its users.

vCPU 0 (runs on root R)                host
                                       acquires mmu_lock; zaps R: empty, invalid
                                       releases mmu_lock
faults; fills R again: no lookup finds
it, so nobody keeps it up to date
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bugs import Bug
from vmm.features import mmu_reload

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.shadow_page import ShadowPage


class Zap(mmu_reload.Zap):
    """Makes roots invalid in silence."""

    async def reload_users(self, me: VcpuState | None, page: ShadowPage) -> None:
        """The right one asks every vCPU to reload, and waits until none runs the guest."""


SPEC = Bug(
    title="vCPUs are not asked to let go of an invalid root",
    source="a mutant; KVM 2e53d63acb (2.6.26) asks",
    points=("S14",),
    caught_by=("lifetime/invalid-page-walked",),
    needs=("mmu-reload",),
    scenario="zapped-root-lookup",
)
