"""A VM is destroyed vCPU by vCPU: pages are freed while other vCPUs' roots are still pinned.

    vCPU 0                                 vCPU 1
    closed                                 closed; its root is still counted
    let go of the root of vCPU 0
    zap every page: the root of vCPU 1 is
    in use, hence emptied but not freed

With one vCPU, nobody could tell.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import teardown


class Host(teardown.Host):
    """Lets go of one root, then frees the pages."""

    async def unload_roots(self) -> None:
        """The fix goes through all vCPUs before any page is freed."""
        await self.vm.mmu.roots.free(self.vm.vcpus[0])


SPEC = Bug(
    title="pages are freed at teardown while other vCPUs' roots are still pinned",
    year=2007,
    fix="7b53aa5650",
    source="KVM 7b53aa5650 (2.6.23, in preparation of SMP guests)",
    caught_by=("lifetime/teardown",),
    needs=("teardown",),
    seen="shadow pages of an SMP guest leak when it is destroyed",
)
