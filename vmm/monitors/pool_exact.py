"""Audit: every shadow page of the pool is either free or in use, and counted once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.cells import Cell
from vmm.engine.monitor import Audit, Finding, View
from vmm.engine.world import World
from vmm.mmu.mmu import ShadowMmu
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any


class PoolExact(Audit):
    """KVM keeps a counter of free pages; here the free list is its own counter."""

    name = "audit/pool-exact"

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    def watched(self) -> tuple[Cell[Any], ...]:
        headers = () if self.mmu.cache.lists_invalid else [p.header for p in self.mmu.cache.pages]
        return (self.mmu.cache.free, self.mmu.cache.active, *headers)

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        free, active = view[self.mmu.cache.free], view[self.mmu.cache.active]
        unlisted = self._unlisted(view)
        if sorted((*free, *active, *unlisted)) == [page.number for page in self.mmu.cache.pages]:
            return ()
        message = (
            f"{len(free)} free pages and {len(active)} active ones do not make up the pool of "
            f"{len(self.mmu.cache.pages)}: free {free}, active {active}"
        )
        cells = (self.mmu.cache.free.name, self.mmu.cache.active.name)
        return (SPEC.finding("audit/pool-exact", message, *cells),)

    def _unlisted(self, view: View) -> list[int]:
        """Zapped roots that are still in use, where these are on no list."""
        if self.mmu.cache.lists_invalid:
            return []
        headers = [(page.number, view[page.header]) for page in self.mmu.cache.pages]
        return [number for number, header in headers if header and header.role.invalid]

    def incremental(
        self, state: object, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del written
        return self.full(state, view)


def _build(world: World, vm: Vm | None) -> PoolExact | None:
    del world
    return None if vm is None else PoolExact(vm.mmu)


SPEC = Oracle(
    title="every shadow page is either free or in use",
    source="KVM ebeace8609 (2007, n_free_mmu_pages); eb787d10af (2008)",
    rule="the free pages and the active pages together are the pool, each page once",
    build=_build,
)
