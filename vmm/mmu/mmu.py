"""The shadow MMU of a VM: its lock, its data, and the components that work on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from vmm.engine.events import AuditPoint
from vmm.engine.world import ModelObject, World
from vmm.mmu.emulator import Emulator
from vmm.mmu.fault import PageFault
from vmm.mmu.guest_walk import GuestWalker
from vmm.mmu.memslots import Memslots
from vmm.mmu.page_cache import PageCache
from vmm.mmu.pte_write import PteWrite
from vmm.mmu.recycle import Recycle
from vmm.mmu.rmap import Rmap
from vmm.mmu.roots import Roots
from vmm.mmu.shadow_page import ShadowPage
from vmm.mmu.shadowing import Shadowing
from vmm.mmu.spte import SetSpte
from vmm.mmu.zap import Zap

if TYPE_CHECKING:
    from vmm.engine.cells import Lock
    from vmm.hw.memory import Memory
    from vmm.mmu.api import Flusher

COMPONENTS: Mapping[str, type[ModelObject]] = {
    cls.__name__: cls
    for cls in (
        Emulator,
        GuestWalker,
        Memslots,
        PageCache,
        PageFault,
        PteWrite,
        Recycle,
        Rmap,
        Roots,
        SetSpte,
        ShadowPage,
        Shadowing,
        Zap,
    )
}
"""The classes that a feature or a bug may override, by name."""


class ShadowMmu(ModelObject):
    """Everything that mmu_lock guards, and what is done under it.

    ``classes`` gives the component classes by name, those of features and bugs in front.
    """

    lock_name: ClassVar[str] = "mmu_lock"

    def __init__(
        self,
        world: World,
        memory: Memory,
        *,
        classes: Mapping[str, Any],
        pages: int,
        min_free: int,
        refill: int,
    ) -> None:
        self.release_events = (AuditPoint(f"{self.lock_name} released"),)
        self.lock = self.make_lock(world)
        self.memory = memory
        self.cache: PageCache = classes["PageCache"](
            world, self.lock, pages, page_class=classes["ShadowPage"]
        )
        self.rmap: Rmap = classes["Rmap"](world, self.lock)
        self.slots: Memslots = classes["Memslots"](world, self.lock)
        self.walker: GuestWalker = classes["GuestWalker"](memory)
        self.shadowing: Shadowing = classes["Shadowing"](self)
        self.set_spte: SetSpte = classes["SetSpte"](self)
        self.zap: Zap = classes["Zap"](self)
        self.recycle: Recycle = classes["Recycle"](self, min_free, refill)
        self.roots: Roots = classes["Roots"](self)
        self.fault: PageFault = classes["PageFault"](self)
        self.pte_write: PteWrite = classes["PteWrite"](self)
        self.emulator: Emulator = classes["Emulator"](self)
        self.flusher: Flusher

    def make_lock(self, world: World) -> Lock:
        """Make the lock that guards all this."""
        return world.lock(self.lock_name, release_event=self.release_events)

    def connect(self, flusher: Flusher) -> None:
        """Say who flushes TLBs; once, before the world is frozen."""
        self.flusher = flusher
