"""Interrupts stay on during a lockless walk, so that a flush is acknowledged in the middle of it.

vCPU 0 (walks)                         host (zaps page S)
mode0 := READING
reads an spte: points to S
                                       unlinks S; mode0 is READING: IPI, waits
takes the IPI: acknowledged
                                       S goes back to the pool
reads S
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import lockless_walk
from vmm.vcpu.vcpu import Mode, Vcpu


class PageFault(lockless_walk.PageFault):
    """Says that it reads, and lets itself be interrupted."""

    async def walk_begin(self, vcpu: Vcpu) -> None:
        """The right one turns interrupts off first."""
        await vcpu.mode.set(Mode.READING_SHADOW_PAGE_TABLES, serialising=True)

    async def walk_end(self, vcpu: Vcpu) -> None:
        """The walk is over."""
        await vcpu.mode.set(Mode.OUTSIDE_GUEST_MODE)


SPEC = Bug(
    title="a lockless walk may be interrupted",
    source="a mutant; KVM c142786c62 (3.5): local_irq_disable",
    points=("S39",),
    caught_by=("lifetime/freed-under-walk",),
    needs=("lockless-walk",),
    scenario="lockless-walk-free",
)
