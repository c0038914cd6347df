"""A vCPU counts as preempted while KVM emulates an instruction for it.

vCPU 0 (guest)                         vCPU 1
                                       its store traps; KVM translates the operand: gpa g
                                       scheduled out: byte1 := PREEMPTED
the gpte leads elsewhere from now on
byte1 := PREEMPTED | FLUSH_TLB
uses g for something else
                                       scheduled in; KVM stores to g
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import pv_flush


class Vcpu(pv_flush.Vcpu):
    """Says at once that it does not run."""

    def may_report(self, *, at_boundary: bool) -> bool:
        """The fix asks whether an instruction is under way."""
        del at_boundary
        return True


SPEC = Bug(
    title="a vCPU is reported as preempted in the middle of an instruction",
    year=2022,
    fix="6cd88243c7e0",
    source="KVM 6cd88243c7e0 (5.19)",
    caught_by=("emulation/after-flush",),
    needs=("pv-flush",),
    cve="CVE-2022-39189",
    seen="a process of the guest writes to a page that it does not have any more",
)
