"""The oracles, one file each.

A file holds ``SPEC = Oracle(...)``. Its ``build(world, vm)`` gives the monitor, or None where it
has nothing to judge: ``vm`` is None for a world without a machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmm.engine.monitor import Finding, Monitor, View
from vmm.engine.world import World
from vmm.mmu.page_cache import PageCache
from vmm.mmu.shadow_page import ShadowPage
from vmm.vcpu.vcpu import Vm


@dataclass(frozen=True, slots=True)
class Oracle:
    """A monitor and what it stands for: the ``rule`` in one sentence, and who says so."""

    title: str
    source: str
    rule: str
    build: Callable[[World, Vm | None], Monitor | None]

    def finding(self, code: str, message: str, *cells: str) -> Finding:
        """A violation of the rule."""
        return Finding(code, message, self.rule, self.source, cells)


def is_unsync(page: ShadowPage, view: View) -> bool:
    """Whether the guest may write the page's table natively, so that its sptes may be old."""
    return page.unsync is not None and view[page.unsync]


def is_obsolete(cache: PageCache, page: ShadowPage, view: View) -> bool:
    """Whether all pages were zapped since this one was made: nobody runs on it any more."""
    if cache.mmu_valid_gen is None or page.mmu_valid_gen is None:
        return False
    return view[page.mmu_valid_gen] != view[cache.mmu_valid_gen]
