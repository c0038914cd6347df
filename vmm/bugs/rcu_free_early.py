"""A page is freed after the flush, whoever reads it in a read section.

vCPU 0 (walks)                         host
rcu read lock
reads an spte: points to page S
unlinks S
flush: vCPU 0 is outside the guest, no wait
frees S
reads S
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import rcu_free


class PageCache(rcu_free.PageCache):
    """Takes the flush for enough."""

    async def wait_for_readers(self) -> None:
        """The right one waits until the sections that had begun have ended."""


SPEC = Bug(
    title="a shadow page is freed while a vCPU is in a read section in which it found the page",
    source="KVM c2a2ac2b56 (3.1): why pages were freed by RCU; a mutant of it",
    caught_by=("isolation/page-given-back", "lifetime/freed-under-walk"),
    needs=("rcu-free",),
)
