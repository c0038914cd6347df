"""An MMIO spte is put over a present one, and nothing is dropped.

    vCPU 0 (writes gva a)                  vCPU 1
    has a mapped read-only: frame 2
                                           gpte of a := MMIO frame, emulated: reached memory
    write fault: the gpte names MMIO
    acquires mmu_lock
    marker over the spte of frame 2; releases:
    rmap[2] still has it, TLBs still have frame 2
                                           acquires mmu_lock; sees a marker: nothing to drop

From outside of the guest it takes no race: whoever writes the gpte behind KVM's back leaves the
present spte there.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.features import mmio_sptes
from vmm.mmu.api import VcpuState
from vmm.mmu.shadow_page import ShadowPage


class PageFault(mmio_sptes.PageFault):
    """Believes that a fault without memory finds no spte."""

    async def set_marker(self, vcpu: VcpuState, page: ShadowPage, index: int, marker: int) -> None:
        """The fix drops what is there first."""
        del vcpu
        await page.set_spte(index, marker)


SPEC = Bug(
    title="an MMIO spte is written over a present spte",
    year=2026,
    fix="aad885e77496",
    source="KVM aad885e77496 (stable, March 2026)",
    caught_by=("audit/rmap-exact",),
    needs=("mmio-sptes",),
    seen="a warning, then the reverse map of a slot that goes has an spte that maps nothing",
    cve="CVE-2026-23401",
)
