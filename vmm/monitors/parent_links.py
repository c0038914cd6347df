"""Audit: the parent links of a shadow page are exactly the sptes that point to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vmm.bits import P, frame_of
from vmm.engine.cells import Cell, CellArray
from vmm.engine.monitor import Audit, Finding, View
from vmm.engine.world import World
from vmm.mmu.mmu import ShadowMmu
from vmm.mmu.shadow_page import ShadowPage, SpteRef
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any


class ParentLinks(Audit):
    """Non-leaf sptes against the ``parents`` of the pages that they point to, both ways."""

    name = "audit/parent-links"

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu
        self.pages = {page.parents: page for page in mmu.cache.pages}

    def watched(self) -> tuple[Cell[Any] | CellArray[Any, Any], ...]:
        return (self.mmu.cache.sptes, *self.pages)

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        found: list[Finding] = []
        for ref, _ in view.items(self.mmu.cache.sptes):
            found += self._link(ref, view)
        for page in self.mmu.cache.pages:
            found += self._parents(page, view)
        return tuple(found)

    def incremental(
        self, state: object, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del state
        found: list[Finding] = []
        for cell in written:
            if cell in self.pages:
                found += self._parents(self.pages[cell], view)
            else:
                ref = cast("SpteRef", cell.key)
                found += self._link(ref, view)
                found += self._claims(ref, view)
        return tuple(found)

    def _child(self, ref: SpteRef, view: View) -> ShadowPage | None:
        """The page that a non-leaf spte points to."""
        header = view[self.mmu.cache.pages[ref.page].header]
        spte = view[self.mmu.cache.sptes[ref]]
        if header is None or header.role.level == 1 or not spte & P:
            return None
        return self.mmu.cache.page_at(frame_of(spte))

    def _link(self, ref: SpteRef, view: View) -> list[Finding]:
        child = self._child(ref, view)
        if child is None or view[child.parents].count(ref) == 1:
            return []
        return [
            SPEC.finding(
                "audit/parent-links",
                f"{ref} points to sp{child.number}, whose parents do not say so",
                f"spte {ref}",
                child.parents.name,
            )
        ]

    def _parents(self, page: ShadowPage, view: View) -> list[Finding]:
        return [
            self._stray(page, ref)
            for ref in view[page.parents]
            if self._child(ref, view) is not page
        ]

    def _claims(self, ref: SpteRef, view: View) -> list[Finding]:
        """The pages that count a written spte among their parents although it points elsewhere.

        None for a leaf: who counted it when it was a link was found when that was cleared.
        """
        header = view[self.mmu.cache.pages[ref.page].header]
        if header is not None and header.role.level == 1:
            return []
        child = self._child(ref, view)
        return [
            self._stray(page, ref)
            for page in self.mmu.cache.pages
            if page is not child and ref in view[page.parents]
        ]

    def _stray(self, page: ShadowPage, ref: SpteRef) -> Finding:
        return SPEC.finding(
            "audit/parent-links",
            f"sp{page.number} has {ref} among its parents, which does not point to it",
            page.parents.name,
            f"spte {ref}",
        )


def _build(world: World, vm: Vm | None) -> ParentLinks | None:
    del world
    return None if vm is None else ParentLinks(vm.mmu)


SPEC = Oracle(
    title="the parent links of a shadow page are exactly the sptes that point to it",
    source="KVM cea0f0e7ea, cc4529efc7 (2007, parent_ptes); 6c475352e87 (2008)",
    rule="a present non-leaf spte is among the parents of the page it points to, and of no other",
    build=_build,
)
