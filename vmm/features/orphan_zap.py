"""A page whose last parent is zapped is zapped with it, and so on downwards.

    vCPU 0 (recycles page S)               vCPU 1
    acquire mmu_lock
    S, the only parent of T, is emptied
    T has no parent left: emptied, too
    T is no root: it is to be freed with S
    T is the root of vCPU 1: invalid,
    MMU_RELOAD; IPI, wait                  exits
    flush, wait; S goes back to the pool
    release mmu_lock
                                           takes MMU_RELOAD: gives T back; loads a new root

Without this, children stay cached without a parent until somebody finds them again, or they are
recycled. The recursion goes by parents alone, so it may reach a page that is a root as well as a
child (``long-mode-sharing``): that is an end of it like any other zap of a root in use.

Departs from KVM: there only shadows of a nested guest's EPT tables are zapped so, since the nested
hypervisor seldom uses them again; nested guests are not modeled. Since 2026 a page that is a root
is spared (7a2c70e777a0); here it is as before, which is what ``zapscape`` needs.

Source: KVM, "Recursively zap nested TDP SPs when zapping last/only parent" (2020, 5.10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import frame_of
from vmm.engine.ops import mark
from vmm.features import Feature, two_phase_zap

if TYPE_CHECKING:
    from vmm.features.two_phase_zap import Prepared
    from vmm.mmu.api import VcpuState
    from vmm.mmu.shadow_page import ShadowPage


class Zap(two_phase_zap.Zap):
    """Zaps what would be orphaned."""

    async def prepare(self, me: VcpuState | None, page: ShadowPage) -> Prepared:
        """Take a page and all that it alone leads to out of everybody's sight."""
        children = await self.children_of(page)
        prepared = await super().prepare(me, page)
        for child in children:
            if not await child.parents:
                await mark("orphan zapped")
                prepared += await self.prepare(me, child)
        return prepared

    async def children_of(self, page: ShadowPage) -> tuple[ShadowPage, ...]:
        """The pages that a page leads to, each once."""
        header = await page.header
        children: tuple[ShadowPage, ...] = ()
        if header is not None and header.role.level > 1:
            for index in await page.present:
                child = self.mmu.cache.page_at(frame_of(await page[index]))
                if child not in children:
                    children = (*children, child)
        return children


SPEC = Feature(
    title="pages that a zap leaves without a parent are zapped with it",
    source='KVM "Recursively zap nested TDP SPs when zapping last/only parent" (5.10)',
    since="5.10",
    needs=("invalid-unlisted",),
)
