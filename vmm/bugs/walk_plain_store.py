"""KVM's guest walk sets A and D by a plain store of what it read, with the bit added.

    vCPU 0                                 vCPU 1
    walk: reads gpte X, A clear
                                           stores gpte = Y (not shadowed: no trap)
    stores gpte = X with A: Y is lost

A processor sets A and D by a locked update, and so must KVM once the guest runs meanwhile. The
commit was part of taking the walk out of the lock; before, other vCPUs' stores to tables that were
not shadowed had the same window.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.hw.events import Exchange
from vmm.mmu import guest_walk
from vmm.units import Gpa


class GuestWalker(guest_walk.GuestWalker):
    """Marks entries as used without looking at them again."""

    async def mark_used(self, gpa: Gpa, entry: int, marked: int, size: int) -> bool:
        """The fix is a cmpxchg, and another walk if it fails."""
        await self.memory.store(gpa, marked, size, event=Exchange(gpa, entry, size))
        return True


SPEC = Bug(
    title="the guest walk writes A and D back over what another vCPU has stored",
    year=2007,
    fix="b3e4e63fd9",
    source="KVM b3e4e63fd9 (2.6.25); behaviour since ac79c978f1 (2.6.20)",
    caught_by=("update/lost",),
    seen="an SMP guest loses a change to its page tables: a page that it unmapped is mapped again",
)
