"""Flush debt: a sync drops sptes without a flush, and counts that one is owed.

A guest that changes an entry owes its other vCPUs an invalidation; until then they may use the old
translation, and KVM need not flush them. But it must not forget that they might.

    vCPU 0 (loads cr3: syncs)              host thread (takes the page of frame g)
    acquire mmu_lock
    drop the spte of g
    tlbs_dirty += 1, no flush; release
    flushes its own TLB
                                           acquire mmu_lock
                                           zap every spte in rmap[g]: there is none
                                           tlbs_dirty is not 0: flush, wait
                                           release; give the page back

Whoever looks for the sptes of a frame to take something away asks for the debt too: the notifier,
write protection, the dirty log. Any remote flush pays it: it notes tlbs_dirty before it makes its
requests, and sets it to 0 afterwards if nobody has added to it meanwhile.

Departs from KVM until 2021, where write protection did not ask (f81602958c11), and from KVM since,
which has no debt any more (6bc6db000295). The dirty log of KVM flushed whenever a frame was dirty.

Source: KVM a4ee1ca4a36e (2010, 2.6.38); 7bfdf21778 (order of spte and count).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vmm.engine.events import Goal
from vmm.features import Feature, unsync
from vmm.mmu import mmu
from vmm.vcpu import flush

if TYPE_CHECKING:
    from vmm.engine.cells import Cell
    from vmm.engine.world import World
    from vmm.hw.memory import Memory
    from vmm.mmu.api import VcpuState


class ShadowMmu(mmu.ShadowMmu):
    """``tlbs_dirty`` counts what was dropped since it was last paid for."""

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
        super().__init__(
            world, memory, classes=classes, pages=pages, min_free=min_free, refill=refill
        )
        self.tlbs_dirty: Cell[int] = world.cell("tlbs_dirty", 0, marked=True)


class Shadowing(unsync.Shadowing):
    """Owes what a sync drops."""

    async def flush_dropped(self, me: VcpuState) -> None:
        """First the sptes are gone, then it is counted."""
        await tlbs_dirty(self.mmu).update(_add_one, event=Goal("flush owed"))

    async def flush_owed(self) -> bool:
        """Whether a TLB may hold what was dropped."""
        return bool(await tlbs_dirty(self.mmu))


class Flush(flush.Flush):
    """Every remote flush pays."""

    async def flush_remote(self, me: VcpuState | None) -> None:
        """What is added while the requests are under way stays owed."""
        debt = tlbs_dirty(self.vcpus[0].mmu)
        seen = await debt
        await super().flush_remote(me)
        if seen:
            await debt.cas(seen, 0)


def tlbs_dirty(shadow: mmu.ShadowMmu) -> Cell[int]:
    """The debt of a machine with this feature."""
    assert isinstance(shadow, ShadowMmu)
    return shadow.tlbs_dirty


def _add_one(count: int) -> tuple[int, None]:
    return count + 1, None


SPEC = Feature(
    title="what a sync drops is flushed when it matters",
    source="KVM a4ee1ca4a36e (2.6.38)",
    since="2.6.38",
    eras=("3.6",),
    needs=("unsync",),
    locks={"mmu_lock": "held while tlbs_dirty grows"},
)
