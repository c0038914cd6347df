"""A 32-bit host emulates CMPXCHG8B as two 4-byte writes.

    vCPU 0                                 vCPU 1
    CMPXCHG8B gpte, X -> Y traps
    the emulator reads the gpte: X
    writes the lower half of Y
                                           sees an entry that nobody stored; may store Z
    writes the upper half of Y: what is left of Z is half an entry

PAE guests set their 8-byte entries with this instruction because it is one store.
"""

from __future__ import annotations

from functools import partial

from vmm.bugs import Bug
from vmm.hw.memory import cut
from vmm.mmu import emulator
from vmm.mmu.api import VcpuState
from vmm.units import ENTRY_BYTES, Gpa


class Emulator(emulator.Emulator):
    """Writes what it has compared half by half, each a page-table write of its own."""

    async def exchange(self, vcpu: VcpuState, gpa: Gpa, seen: int, new: int) -> bool:
        """The fix exchanges on the host's mapping of the guest page. The caller does the rest."""
        event = partial(emulator.exchanged, gpa, seen, vcpu.number)
        low, high = cut(gpa, ENTRY_BYTES, ENTRY_BYTES // 2)
        await self.mmu.memory.store(low.address, low.of(new), low.size, event=event)
        await self.mmu.pte_write.follow(vcpu, gpa, low.of(new), low.size)
        await self.mmu.pte_write.store(vcpu, Gpa(high.address), high.of(new), high.size)
        return True


SPEC = Bug(
    title="a locked 8-byte exchange on a page table is emulated as two 4-byte writes",
    year=2007,
    fix="daea3e73cb4a",
    source=(
        "KVM 32b3562735 (2.6.20, on 32-bit hosts); a real exchange since daea3e73cb4a (2.6.35). "
        "In doubt: whether 2.6.25 had one for 8 bytes already"
    ),
    caught_by=("update/lost",),
    seen="a PAE guest on a 32-bit host maps a wrong page for a moment, or for good",
)
