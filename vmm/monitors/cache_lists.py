"""Audit: the active list, the hash buckets and the headers name the same shadow pages."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

from vmm.engine.cells import Cell, CellArray
from vmm.engine.monitor import Audit, Finding, View
from vmm.engine.world import World
from vmm.mmu.mmu import ShadowMmu
from vmm.mmu.shadow_page import Header, ShadowPage, format_header
from vmm.monitors import Oracle
from vmm.units import Gfn
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any


class CacheLists(Audit):
    """A page that is in use has a header, stands once in the active list and once in its bucket.

    An invalid one stands in the list only where the machine lists invalid pages.
    """

    name = "audit/cache-lists"

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu
        self.pages = {page.header: page for page in mmu.cache.pages}

    def watched(self) -> tuple[Cell[Any] | CellArray[Any, Any], ...]:
        return (self.mmu.cache.active, self.mmu.cache.buckets, *self.pages)

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        found = self._pages(view)
        for gfn, _ in view.items(self.mmu.cache.buckets):
            found += self._bucket(gfn, view)
        return tuple(found)

    def incremental(
        self, state: object, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del state
        buckets = [cell for cell in written if cell.array is self.mmu.cache.buckets]
        # The lists are short beside the sptes: all pages are looked at once any of them changed.
        found = self._pages(view)
        for cell in buckets:
            found += self._bucket(cast("Gfn", cell.key), view)
        return tuple(found)

    def _pages(self, view: View) -> list[Finding]:
        active = Counter(view[self.mmu.cache.active])
        return [
            finding
            for page in self.mmu.cache.pages
            for finding in self._page(page, active[page.number], view)
        ]

    def _page(self, page: ShadowPage, listed: int, view: View) -> list[Finding]:
        header = view[page.header]
        if listed != (header is not None and self._is_listed(header)):
            message = (
                f"sp{page.number} ({format_header(header)}) stands in the active list {listed} "
                "times"
            )
            if header is not None and not self._is_listed(header):
                message += ", where no invalid page may be"
            return [self._finding(message, page, self.mmu.cache.active)]
        if header is None:
            return []
        bucket = self.mmu.cache.buckets[header.gfn]
        if view[bucket].count((header.role, page.number)) == 1:
            return []
        message = f"sp{page.number} ({format_header(header)}) is not found by its key"
        return [self._finding(message, page, bucket)]

    def _is_listed(self, header: Header) -> bool:
        return self.mmu.cache.lists_invalid or not header.role.invalid

    def _bucket(self, gfn: Gfn, view: View) -> list[Finding]:
        bucket = self.mmu.cache.buckets[gfn]
        return [
            self._finding(
                f"the bucket of gfn {gfn:#x} holds sp{number} {role}, which is "
                f"{format_header(view[page.header])}",
                page,
                bucket,
            )
            for role, number in view[bucket]
            for page in (self.mmu.cache.pages[number],)
            if view[page.header] != (gfn, role)
        ]

    def _finding(self, message: str, page: ShadowPage, cell: Cell[Any]) -> Finding:
        return SPEC.finding("audit/cache-lists", message, page.header.name, cell.name)


def _build(world: World, vm: Vm | None) -> CacheLists | None:
    del world
    return None if vm is None else CacheLists(vm.mmu)


SPEC = Oracle(
    title="active list, hash buckets and headers name the same shadow pages",
    source="KVM cea0f0e7ea (2007, mmu_page_hash and active_mmu_pages)",
    rule="a shadow page in use stands once in the active list and once in the bucket of its key",
    build=_build,
)
