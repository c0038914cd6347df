"""A vCPU that arrives on another pCPU keeps what it once left in the TLB there.

vCPU 0                                 host
runs on pCPU 0, whose TLB has the page
moves to pCPU 1
                                       unmaps the page; requests a flush
flushes pCPU 1
                                       gives the page back
moves back to pCPU 0
uses the page through its TLB
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import vcpu_migration


class RunLoop(vcpu_migration.RunLoop):
    """Loads the vCPU, and trusts that all flushes have been done."""

    async def arrive(self, vcpu: vcpu_migration.Vcpu) -> None:
        """The fix flushes whenever the pCPU is another one than last time."""
        del vcpu


SPEC = Bug(
    title="a vCPU finds its old translations on a pCPU to which it comes back",
    year=2022,
    fix="4b9ac285e253",
    source=(
        'KVM 4b9ac285e253 (2022, RISC-V, "Cleanup stale TLB entries when host CPU changes"); '
        "OpenBSD 46cd802afa2f (INVEPT on migration)"
    ),
    points=("S40",),
    caught_by=("isolation/page-given-back",),
    needs=("vcpu-migration",),
    seen="a guest reads or writes a page that belongs to somebody else by now",
)
