"""An unsync page is marked, and the way to it from the root is not.

vCPU 0                                 vCPU 1
table T becomes unsync; the pages
above it do not say so
writes a gpte of T, loads CR3: nothing
below the root is unsync, it seems
uses the address: walks the old spte
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import unsync
from vmm.mmu.shadow_page import ShadowPage


class Shadowing(unsync.Shadowing):
    """Marks the page alone."""

    async def mark_parents(self, page: ShadowPage) -> None:
        """The right one marks the links to the page in all pages above it."""


SPEC = Bug(
    title="the pages above an unsync page are not marked",
    source="a mutant; KVM 0074ff63eb (2.6.28) marks them",
    points=("S48",),
    caught_by=("audit/unsync-marks",),
    needs=("unsync",),
    scenario="unsync",
)
