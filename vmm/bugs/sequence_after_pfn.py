"""The notifier's sequence is noted after the page was resolved.

vCPU 0 (faults on frame g)             host thread
g lies in host page P
                                       ++count; zaps g; frees P; ++seq, --count
s = mmu_notifier_seq
acquires mmu_lock: no invalidation is
open, none was closed since s: installs P
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import notifier
from vmm.mmu.memslots import HostPage
from vmm.units import Gfn


class Memslots(notifier.Memslots):
    """Begins to watch too late."""

    async def pin(self, gfn: Gfn) -> HostPage:
        """The right one takes the sequence before it looks."""
        page = await super().pin(gfn)
        return page._replace(sequence=await self.sequence)


SPEC = Bug(
    title="the notifier's sequence is read after the page was resolved",
    source="a mutant; KVM e930bffe95e1 (2.6.27) reads it before",
    points=("S43",),
    caught_by=("isolation/page-given-back",),
    needs=("notifier",),
    scenario="mmu-notifier",
)
