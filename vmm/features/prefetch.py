"""Prefetch: a new shadow page is filled from its table at once, for faults that will then not come.

    vCPU 0 (shadows table T)               vCPU 1
    acquire mmu_lock
    insert the shadow page of T
    write-protect T; flush, wait
                                           from here on its stores to T trap
    reads T's gptes; installs the sptes of
    those that the guest has used
    release mmu_lock
                                           store gpte, emulated: acquire mmu_lock; the spte follows

The table is protected first (ad86b6c36bbb): what is read before may change without anybody being
told, and the gptes of other addresses are not read again as the one of the fault is.

Departs from KVM, which in 2008 only noted what was not present, to let the processor give such
faults to the guest itself, and fills eight neighbours of a faulting address since 2010
(957ed9effd80; the hash is recalled): here as many as ``PREFETCHED``, the first of the table. Sptes
whose host page must be looked up (``host-paging``) are left out.

Source: KVM ad86b6c36bbb (2008, 2.6.26).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import D, combine, frame_of
from vmm.engine.ops import mark
from vmm.features import Feature
from vmm.hw.memory import part_of
from vmm.mmu import shadowing
from vmm.mmu.memslots import pfn_of

if TYPE_CHECKING:
    from vmm.mmu.api import VcpuState
    from vmm.mmu.role import Role
    from vmm.mmu.shadow_page import ShadowPage
    from vmm.units import Gfn

PREFETCHED = 2
"""Entries of a new page that are looked at. KVM: all in 2008, 8 since 2010."""


class Shadowing(shadowing.Shadowing):
    """Fills new pages of level 1."""

    async def get_page(self, me: VcpuState, gfn: Gfn, role: Role) -> ShadowPage:
        """As without the feature; a new page is protected, then filled."""
        known = await self.mmu.cache.find(gfn, role)
        page = await super().get_page(me, gfn, role)
        if known is None:
            await self.prefetch(me, page, gfn, role)
        return page

    async def prefetch(self, me: VcpuState, page: ShadowPage, gfn: Gfn, role: Role) -> None:
        """Install sptes for gptes that the guest has used. Holds: mmu_lock; T is protected."""
        if role.level > 1 or not role.has_gptes or self.mmu.slots.host_paging:
            return
        for index in range(PREFETCHED):
            gpa = role.gpte_of(gfn, index)
            gpte = part_of(await self.mmu.memory.word(gpa), gpa, role.gpte_bytes)
            if self.mmu.pte_write.is_mappable(role, gpte):
                await self.mmu.set_spte.install(
                    me,
                    page,
                    index,
                    pfn=pfn_of(frame_of(gpte), 0),
                    rights=combine(role.access, gpte),
                    dirty=bool(gpte & D),
                )
                await mark("spte prefetched")


SPEC = Feature(
    title="new shadow pages are filled from their tables",
    source="KVM ad86b6c36bbb (2.6.26), 957ed9effd80 (2.6.37)",
    since="2.6.26",
    locks={"mmu_lock": "held from the protection of the table until its sptes are installed"},
)
