"""A fault installs what it resolved before an invalidation.

vCPU 0                                 host
resolves frame g: host page P
invalidates g: no spte yet; frees P
acquires mmu_lock; installs the spte of P
uses P, which is somebody else's
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import notifier
from vmm.mmu.memslots import HostPage


class Memslots(notifier.Memslots):
    """Trusts what was resolved."""

    async def still_holds(self, page: HostPage) -> bool:
        """The fix looks at the count, and compares the sequence, under the lock."""
        del page
        return True


SPEC = Bug(
    title="an spte of a page that was invalidated after the fault resolved it",
    year=2008,
    fix="e930bffe95e1",
    source="KVM e930bffe95e1 (2.6.27)",
    caught_by=("isolation/page-given-back",),
    needs=("notifier",),
    seen="memory of other processes changes while the host swaps",
)
