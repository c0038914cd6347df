"""Audit: unsync pages are of level 1 only, and marked on every way to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.bits import P, frame_of
from vmm.engine.cells import Cell, CellArray
from vmm.engine.monitor import Audit, Finding, View
from vmm.engine.world import World
from vmm.features.unsync import ShadowPage
from vmm.mmu.shadow_page import Header
from vmm.monitors import Oracle
from vmm.units import Pfn
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any


class UnsyncMarks(Audit):
    """A load of cr3 finds unsync pages by the marks alone. A mark with nothing below is allowed."""

    name = "audit/unsync-marks"

    def __init__(self, pages: tuple[ShadowPage, ...]) -> None:
        self.pages = pages
        self.in_frame = {page.pfn: page for page in pages}
        self.owners: dict[Cell[Any], ShadowPage] = {}
        for page in pages:
            cells: tuple[Cell[Any], ...] = (
                page.header,
                page.parents,
                page.unsync,
                page.unsync_children,
            )
            self.owners.update(dict.fromkeys(cells, page))

    def watched(self) -> tuple[Cell[Any] | CellArray[Any, Any], ...]:
        return tuple(self.owners)

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        return tuple([finding for page in self.pages for finding in self._page(page, view)])

    def incremental(
        self, state: object, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del state
        pages: dict[ShadowPage, None] = {}
        for cell in written:
            page = self.owners[cell]
            pages[page] = None
            if cell is page.unsync_children:  # a mark may have gone that a child needs
                pages.update(dict.fromkeys(self._children(page, view)))
        return tuple([finding for page in pages for finding in self._page(page, view)])

    def _children(self, page: ShadowPage, view: View) -> list[ShadowPage]:
        links = [view[page[index]] for index in view[page.present]]
        return [self.in_frame[Pfn(frame_of(link))] for link in links if link & P]

    def _page(self, page: ShadowPage, view: View) -> list[Finding]:
        found: list[Finding] = []
        header, unsync, marks = view[page.header], view[page.unsync], view[page.unsync_children]
        if unsync and not _may_be_unsync(header):
            found.append(self._finding(page, "is unsync, but no shadow of a level-1 table"))
        if marks and header is None:
            found.append(self._finding(page, "is free, but marked"))
        for ref in view[page.parents] if unsync or marks else ():
            parent = self.pages[ref.page]
            if ref.index not in view[parent.unsync_children]:
                what = "is unsync" if unsync else "leads to unsync pages"
                what = f"{what}, but {ref} above it is not marked"
                found.append(self._finding(page, what, parent.unsync_children.name))
        return found

    def _finding(self, page: ShadowPage, what: str, *others: str) -> Finding:
        cells = (page.unsync.name, page.unsync_children.name, page.parents.name, *others)
        return SPEC.finding("audit/unsync-marks", f"sp{page.number} {what}", *cells)


def _may_be_unsync(header: Header | None) -> bool:
    return header is not None and header.role.level == 1 and header.role.has_gptes


def _build(world: World, vm: Vm | None) -> UnsyncMarks | None:
    del world
    if vm is None:
        return None
    pages = tuple([page for page in vm.mmu.cache.pages if isinstance(page, ShadowPage)])
    return UnsyncMarks(pages) if pages else None


SPEC = Oracle(
    title="unsync pages are of level 1, and marked on every way from a root",
    source="KVM 4731d4c7a0, 0074ff63eb (2008); ce25681d59ff (2021, marks lost in a race)",
    rule="whoever looks for unsync pages below a root by the marks finds all that there are",
    build=_build,
)
