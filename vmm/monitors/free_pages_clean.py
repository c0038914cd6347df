"""Audit: a shadow page in the pool is empty, and nothing points to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vmm.engine.cells import Cell, CellArray
from vmm.engine.monitor import Audit, Finding, View
from vmm.engine.world import World
from vmm.mmu.mmu import ShadowMmu
from vmm.mmu.shadow_page import ShadowPage, SpteRef
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any


class FreePagesClean(Audit):
    """Every spte of a free page is zero; it has no parents and is nobody's root.

    A page is clean when it is taken from the pool because it was so when it went there.
    """

    name = "audit/free-page-clean"

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu
        self.pages: dict[Cell[Any], ShadowPage] = {}
        for page in mmu.cache.pages:
            cells: tuple[Cell[Any], ...] = (page.header, page.parents, page.root_count)
            self.pages.update(dict.fromkeys(cells, page))

    def watched(self) -> tuple[Cell[Any] | CellArray[Any, Any], ...]:
        return (self.mmu.cache.sptes, *self.pages)

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        found: list[Finding] = []
        for ref, _ in view.items(self.mmu.cache.sptes):
            found += self._spte(ref, view)
        for page in self.mmu.cache.pages:
            found += self._page(page, view)
        return tuple(found)

    def incremental(
        self, state: object, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del state
        refs = {cast("SpteRef", cell.key): None for cell in written if cell not in self.pages}
        pages = {self.pages[cell]: None for cell in written if cell in self.pages}
        for page in pages:
            if view[page.header] is None:
                refs.update((ref, None) for ref in self.mmu.cache.sptes.cells if _is_in(ref, page))
        found: list[Finding] = []
        for ref in sorted(refs):
            found += self._spte(ref, view)
        for page in pages:
            found += self._page(page, view)
        return tuple(found)

    def _spte(self, ref: SpteRef, view: View) -> list[Finding]:
        cell = self.mmu.cache.sptes[ref]
        page = self.mmu.cache.pages[ref.page]
        if view[page.header] is not None or not view[cell]:
            return []
        return [self._finding(page, f"{ref} = {cell.format(view[cell])}", cell)]

    def _page(self, page: ShadowPage, view: View) -> list[Finding]:
        if view[page.header] is not None:
            return []
        cells: tuple[Cell[Any], ...] = (page.parents, page.root_count)
        return [
            self._finding(page, f"{cell.name} = {cell.format(view[cell])}", cell)
            for cell in cells
            if view[cell]
        ]

    def _finding(self, page: ShadowPage, what: str, cell: Cell[Any]) -> Finding:
        message = f"sp{page.number} is free, but not clean: {what}"
        return SPEC.finding("audit/free-page-clean", message, cell.name, page.header.name)


def _is_in(ref: SpteRef, page: ShadowPage) -> bool:
    return ref.page == page.number


def _build(world: World, vm: Vm | None) -> FreePagesClean | None:
    del world
    return None if vm is None else FreePagesClean(vm.mmu)


SPEC = Oracle(
    title="a free shadow page is empty, and nothing points to it",
    source="KVM 5f1e0b6abc, 139bdb2d9e (2007, is_empty_shadow_page)",
    rule="a shadow page that goes back to the pool has no entry, no parent and no user",
    build=_build,
)
