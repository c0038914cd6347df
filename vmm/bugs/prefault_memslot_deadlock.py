"""A pre-fault that meets an invalid memory slot tries again in the section that keeps it invalid.

    vCPU 0's thread (pre-faults frame g)   host thread (deletes the slot of g)
    srcu read lock
                                           publishes the slots, that of g invalid
                                           synchronizes: waits for vCPU 0
    the slot is invalid: tries again
    the slot is invalid: tries again
    for ever                               for ever

A guest's fault tries again, too, but ends its section in between.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import pre_fault


class PageFault(pre_fault.PageFault):
    """Waits for what waits for it."""

    def gives_up(self) -> bool:
        """The fix returns -EAGAIN to userspace."""
        return False


SPEC = Bug(
    title="a pre-fault waits for the end of a deletion that waits for the pre-fault",
    year=2025,
    fix="5b0d0d85422d",
    source="KVM merge 5b0d0d85422d (6.18)",
    caught_by=("livelock/inescapable",),
    needs=("pre-fault",),
    seen="two threads of the VMM never come back from their ioctls",
)
