"""The mode that says "reading" is still in the store buffer when the walk begins.

vCPU 0 (walks)                         host (zaps page S)
interrupts off
mode0 := READING, in its store buffer
reads an spte: points to S
                                       unlinks S; mode0 is OUTSIDE: no IPI, no wait
                                       S goes back to the pool
reads S
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import lockless_walk
from vmm.vcpu.vcpu import Mode, Vcpu


class PageFault(lockless_walk.PageFault):
    """Reads before it is seen reading."""

    async def walk_begin(self, vcpu: Vcpu) -> None:
        """The right one has a full barrier behind the store of the mode."""
        await vcpu.pcpu.interrupts_off()
        await vcpu.mode.set(Mode.READING_SHADOW_PAGE_TABLES)


SPEC = Bug(
    title="a lockless walk begins before its mode can be seen",
    source="a mutant; KVM c142786c62 (3.5): smp_store_mb",
    points=("S38",),
    caught_by=("lifetime/freed-under-walk",),
    needs=("lockless-walk",),
)
