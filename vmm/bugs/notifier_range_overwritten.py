"""The range of invalidations is that of the newest one.

vCPU 0                   host thread M            host thread N
start: range := g
start: range := h
faults on g: resolves P
g is not in the range:
installs the spte of P
frees P; end
uses P, which is somebody else's
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import notifier_ranges
from vmm.features.notifier_ranges import Range


class Memslots(notifier_ranges.Memslots):
    """Forgets what is still open."""

    def joined(self, old: Range, new: Range) -> Range:
        """The right one holds both."""
        del old
        return new


SPEC = Bug(
    title="a fault maps a page of a range that another invalidation has taken out of sight",
    source="KVM 4a42d848db95 (5.12), the range grows with each start; a mutant of it",
    caught_by=("isolation/page-given-back",),
    needs=("notifier-ranges",),
)
