"""A locked exchange on a shadowed table is emulated as a plain write.

    vCPU 0                                 vCPU 1
    CMPXCHG gpte, X -> Y traps
    the emulator reads the gpte: X
                                           stores gpte = Z (emulated as well, or native)
    the emulator writes Y: Z is lost

KVM said so itself, once: the kernel log had a warning about it.
"""

from __future__ import annotations

from functools import partial

from vmm.bugs import Bug
from vmm.mmu import emulator
from vmm.mmu.api import VcpuState
from vmm.units import Gpa


class Emulator(emulator.Emulator):
    """Compares, then writes."""

    async def exchange(self, vcpu: VcpuState, gpa: Gpa, seen: int, new: int) -> bool:
        """The fix exchanges on the host's mapping of the guest page."""
        event = partial(emulator.exchanged, gpa, seen, vcpu.number)
        await self.mmu.memory.word(gpa).set(new, event=event)
        return True


SPEC = Bug(
    title="a guest's locked exchange on a page table loses a store of another vCPU",
    year=2010,
    fix="daea3e73cb4a",
    source="KVM daea3e73cb4a (2.6.35); behaviour since 32b3562735 (2.6.20)",
    caught_by=("update/lost",),
    seen="an SMP guest loses an update of a page table that it made with a locked instruction",
)
