"""The reverse map: for each guest frame, the spteps that map it.

Source: KVM cd4a4e5374 (2007) recorded writable sptes only; "Keep a reverse mapping of
non-writable translations" (Eidus, for the swapping of guest memory) made it every present leaf
spte. KVM's descriptor chains are a memory layout, not a protocol: the list is one cell here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.cells import CellArray, Guard
from vmm.engine.world import ModelObject, World
from vmm.errors import InternalError
from vmm.mmu.shadow_page import Refs, SpteRef, add_ref, format_refs, remove_ref
from vmm.units import Gfn

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from vmm.engine.cells import Lock


class Rmap(ModelObject):
    """Spteps by gfn. Holds: mmu_lock."""

    def __init__(self, world: World, lock: Lock) -> None:
        self.chains: CellArray[Gfn, Refs] = world.array(
            "rmap",
            (),
            label=lambda gfn: f"rmap of gfn {gfn:#x}",
            guard=Guard.FULL,
            lock=lock,
            format=format_refs,
        )

    def add(self, gfn: Gfn, ref: SpteRef) -> Awaitable[None]:
        """Record that ``ref`` maps ``gfn``."""
        return self.chains[gfn].update(add_ref, ref)

    async def remove(self, gfn: Gfn, ref: SpteRef) -> None:
        """Forget that ``ref`` maps ``gfn``. Errors: it never did (KVM: BUG)."""
        if not await self.chains[gfn].update(remove_ref, ref):
            raise InternalError(f"rmap of gfn {gfn:#x} does not hold {ref}")
