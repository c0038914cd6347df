"""How the processor translates a guest access: by its TLB, or by a walk of the shadow."""

from __future__ import annotations

from typing import NamedTuple

from vmm.engine.ops import choose
from vmm.hw.access import AccessKind
from vmm.hw.events import Access
from vmm.hw.paging import Controls, grants
from vmm.hw.pcpu import Boundary
from vmm.hw.tlb import TlbEntry
from vmm.mmu.api import NO_PAGE, Root
from vmm.mmu.role import shadow_controls
from vmm.units import Gva, Hpa, Pfn, page_offset, pfn_to_hpa
from vmm.vcpu.vcpu import Vcpu


class Translation(NamedTuple):
    """A host frame for an access; ``cached`` if the TLB gave it."""

    pfn: Pfn
    cached: bool

    def hpa(self, gva: Gva) -> Hpa:
        """Where ``gva`` lies."""
        return Hpa(pfn_to_hpa(self.pfn) + page_offset(gva))

    def access(self, vcpu: Vcpu, gva: Gva, kind: AccessKind) -> Access:
        """The event of using this translation."""
        return Access(
            vcpu.number, gva, self.pfn, kind.write, self.cached, user=kind.user, fetch=kind.fetch
        )


async def look_up(vcpu: Vcpu, boundary: Boundary, gva: Gva, kind: AccessKind) -> Translation | None:
    """The TLB's translation or the shadow's; None if neither permits the access.

    Whether a usable TLB entry is used or walked afresh is the adversary's choice.
    """
    entry, controls = boundary.entry, shadow_controls(boundary.controls)
    usable = entry is not None and grants(entry.rights, kind, controls)
    if entry is not None and usable and await choose(2) == 0:
        return Translation(Pfn(entry.pfn), cached=True)
    walked = await walk(vcpu, boundary, gva, kind, controls)
    return None if walked is None else Translation(Pfn(walked.pfn), cached=False)


async def walk(
    vcpu: Vcpu, boundary: Boundary, gva: Gva, kind: AccessKind, controls: Controls
) -> TlbEntry | None:
    """The processor's walk of the shadow. The pae_root was loaded on entry, as PDPTEs are."""
    root: Root = boundary.root
    start = root.page(gva)
    if start == NO_PAGE:
        return None
    table = vcpu.mmu.cache.pages[start].pfn
    return await vcpu.pcpu.walk(root.level, table, gva, kind, controls, root.pcid)
