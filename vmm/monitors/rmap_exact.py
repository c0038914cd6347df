"""Audit: the reverse map is exact both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vmm.bits import P, frame_of
from vmm.engine.cells import Cell, CellArray
from vmm.engine.monitor import Audit, Finding, View
from vmm.engine.world import World
from vmm.mmu.memslots import gfn_of
from vmm.mmu.mmu import ShadowMmu
from vmm.mmu.shadow_page import SpteRef
from vmm.monitors import Oracle
from vmm.units import Gfn
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any


class RmapExact(Audit):
    """Leaf sptes against rmap entries, as sets (KVM's own audit compared their number)."""

    name = "audit/rmap-exact"

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    def watched(self) -> tuple[Cell[Any] | CellArray[Any, Any], ...]:
        return (self.mmu.cache.sptes, self.mmu.rmap.chains)

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        found: list[Finding] = []
        for ref, _ in view.items(self.mmu.cache.sptes):
            found += self._spte(ref, view)
        for gfn, _ in view.items(self.mmu.rmap.chains):
            found += self._chain(gfn, view)
        return tuple(found)

    def incremental(
        self, state: object, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del state
        found: list[Finding] = []
        for cell in written:
            if cell.array is self.mmu.rmap.chains:
                found += self._chain(cast("Gfn", cell.key), view)
            else:
                found += self._spte(cast("SpteRef", cell.key), view)
        return tuple(found)

    def _spte(self, ref: SpteRef, view: View) -> list[Finding]:
        spte = view[self.mmu.cache.sptes[ref]]
        header = view[self.mmu.cache.pages[ref.page].header]
        if not spte & P or header is None or header.role.level > 1:
            return []
        gfn = gfn_of(frame_of(spte))
        if view[self.mmu.rmap.chains[gfn]].count(ref) == 1:
            return []
        return [
            SPEC.finding(
                "audit/rmap-exact",
                f"{ref} maps gfn {gfn:#x}, but the rmap of that gfn does not say so",
                f"spte {ref}",
                f"rmap of gfn {gfn:#x}",
            )
        ]

    def _chain(self, gfn: Gfn, view: View) -> list[Finding]:
        return [
            SPEC.finding(
                "audit/rmap-exact",
                f"the rmap of gfn {gfn:#x} holds {ref}, which does not map it",
                f"rmap of gfn {gfn:#x}",
                f"spte {ref}",
            )
            for ref in view[self.mmu.rmap.chains[gfn]]
            if not self._maps(ref, gfn, view)
        ]

    def _maps(self, ref: SpteRef, gfn: int, view: View) -> bool:
        spte = view[self.mmu.cache.sptes[ref]]
        header = view[self.mmu.cache.pages[ref.page].header]
        leaf = header is not None and header.role.level == 1
        return leaf and bool(spte & P) and gfn_of(frame_of(spte)) == gfn


def _build(world: World, vm: Vm | None) -> RmapExact | None:
    del world
    return None if vm is None else RmapExact(vm.mmu)


SPEC = Oracle(
    title="the reverse map lists exactly the present leaf sptes of each gfn",
    source="KVM cd4a4e5374 and 37a7d8b046 (2007, audit_rmap)",
    rule="a present leaf spte is in the rmap of the gfn that it maps, and in no other",
    build=_build,
)
