"""Shadow roots: found in the cache when cr3 is loaded, and kept while a vCPU uses them.

Long modes have one root, the shadow of cr3's table. All others have four, one for each quarter of
4G: in PAE mode the shadows of the tables that the latched PDPTEs name, so that the table of the
PDPTEs is never shadowed itself; in 32-bit mode the four quadrants of the page directory; without
paging, direct pages.

Source: KVM cea0f0e7ea, 3bb65a22a4 (2007); 17ac10ad2b, 1b0973bd8f, aef3d3fe13 (2007, pae_root);
417726a3fb (2007, PDPTEs that are not present); 17c3ba9d37 (2007, the root is loaded before entry).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.ops import mark
from vmm.engine.world import ModelObject
from vmm.hw.control import root_gfn, table_of
from vmm.mmu.api import NO_PAGE, NO_ROOT, Root
from vmm.mmu.role import PAE_ROOT_LEVEL, PAE_ROOTS, Role, root_role
from vmm.units import Gfn, frames_per_entry

if TYPE_CHECKING:
    from vmm.hw.events import RegistersWritten
    from vmm.hw.paging import PagingRegisters
    from vmm.mmu.api import VcpuState
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import ShadowPage


class Roots(ModelObject):
    """Loads and frees the shadow root of a vCPU."""

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    async def load(self, vcpu: VcpuState) -> Root:
        """Make the shadows of what the registers name the root; gives it."""
        async with self.mmu.lock:
            await self.mmu.recycle.free_some(vcpu)
            registers = await vcpu.registers
            pages: tuple[int, ...] = ()
            for key in root_keys(registers):
                pages = (*pages, NO_PAGE if key is None else await self.hold(vcpu, *key))
            root = await self.made(vcpu, registers, pages)
            await vcpu.root.set(root)
        await self.mmu.flusher.flush_local(vcpu)
        return root

    async def made(
        self, vcpu: VcpuState, registers: PagingRegisters, pages: tuple[int, ...]
    ) -> Root:
        """What the vCPU walks from, of the pages that were found or made."""
        del vcpu
        return Root(root_role(registers.controls).level, pages)

    async def hold(self, vcpu: VcpuState, gfn: Gfn, role: Role) -> int:
        """Find or make a root and count the vCPU among its users. Holds: mmu_lock."""
        page = await self.mmu.shadowing.get_page(vcpu, gfn, role)
        if await page.present:
            await mark("cached root found")
        await page.root_count.update(_add, 1)
        return page.number

    async def switch(self, vcpu: VcpuState, written: RegistersWritten) -> None:
        """Change the registers. The same again only flushes. Source: KVM d835dfecd0 (2008)."""
        if written.old == written.new:
            await self.mmu.flusher.flush_local(vcpu, event=written)
        else:
            await self.free(vcpu)
            await vcpu.registers.set(written.new, event=written)

    async def free(self, vcpu: VcpuState) -> None:
        """Let go of the root. It stays in the cache for the next load of the same cr3."""
        async with self.mmu.lock:
            root = await vcpu.root
            pages = [self.mmu.cache.pages[number] for number in root.pages if number != NO_PAGE]
            for page in pages:
                await page.root_count.update(_add, -1)
            if root != NO_ROOT:
                await vcpu.root.set(NO_ROOT)
            for page in pages:
                await self.released(vcpu, page)

    async def released(self, vcpu: VcpuState, page: ShadowPage) -> None:
        """A use of a root has ended. Holds: mmu_lock."""


Key = tuple[Gfn, Role]


def root_keys(registers: PagingRegisters) -> tuple[Key | None, ...]:
    """What the roots of a guest shadow; None where a PDPTE is not present."""
    role = root_role(registers.controls)
    if registers.controls.long_mode:
        return ((root_gfn(registers), role),)
    return tuple(_pae_key(registers, role, slot) for slot in range(PAE_ROOTS))


def _pae_key(registers: PagingRegisters, role: Role, slot: int) -> Key | None:
    if role.direct:
        return Gfn(slot * frames_per_entry(PAE_ROOT_LEVEL + 1)), role
    gfn = table_of(registers, slot)
    quadrant = slot if role.glevels == 2 else 0
    return None if gfn is None else (gfn, role._replace(quadrant=quadrant))


def _add(count: int, change: int) -> tuple[int, None]:
    return count + change, None
