"""Two vCPUs mark unsync pages at once, since mmu_lock is shared: one mark is lost.

    vCPU 0                                 vCPU 1
    acquires mmu_lock, shared              acquires mmu_lock, shared
    marks the shadow of T
    reads the marks of the page above
                                           marks the shadow of U
                                           reads the marks of the same page
                                           stores them with U's
    stores them with T's: U's is gone

A load of cr3 goes by the marks, so the shadow of U is never synced. In KVM it is a count beside the
marks that comes out one too low; here the marks are one word, and are lost themselves.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.engine.cells import Lock
from vmm.features import rwlock


class ShadowMmu(rwlock.ShadowMmu):
    """Believes that marks are safe under mmu_lock, shared or not."""

    @property
    def marks_need(self) -> tuple[Lock, ...]:
        """The fix gives the marks a lock of their own."""
        return ()


class Shadowing(rwlock.Shadowing):
    """Takes no lock for marks."""

    async def lock_marks(self) -> None:
        """The fix takes mmu_unsync_pages_lock."""

    async def unlock_marks(self) -> None:
        """It was not taken."""


SPEC = Bug(
    title="marks of unsync pages are lost while mmu_lock is shared, so that pages are not synced",
    year=2021,
    fix="ce25681d59ff",
    source="KVM ce25681d59ff (5.14)",
    caught_by=("audit/unsync-marks",),
    needs=("rwlock",),
    seen="a guest uses translations that it has taken away",
)
