"""A lockless walk does not say that it reads: the flush before a free passes it by.

vCPU 0                                 host
interrupts off; mode0 is OUTSIDE
reads an spte: points to page S
unlinks S
flush: mode0 is OUTSIDE, no IPI, no wait
frees S
reads S
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import lockless_walk
from vmm.vcpu.vcpu import Vcpu


class PageFault(lockless_walk.PageFault):
    """Switches interrupts off, and trusts in that."""

    async def walk_begin(self, vcpu: Vcpu) -> None:
        """The fix publishes READING_SHADOW_PAGE_TABLES, and waits for the store."""
        await vcpu.pcpu.interrupts_off()


SPEC = Bug(
    title="a shadow page is freed while a vCPU walks through it without the lock",
    year=2012,
    fix="c142786c6291",
    source="KVM c142786c6291 (3.5): why the mode READING_SHADOW_PAGE_TABLES is there",
    caught_by=("isolation/page-given-back", "lifetime/freed-under-walk"),
    needs=("lockless-walk",),
    seen="KVM follows a pointer in a page that is somebody else's",
)
