"""Audit: the root count of a shadow page says how often it is a root of a vCPU.

PAE guests may name one table in several PDPTEs: its page counts each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmm.engine.cells import Cell
from vmm.engine.monitor import Audit, Finding, View
from vmm.engine.world import World
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

if TYPE_CHECKING:
    from typing import Any


class RootCounts(Audit):
    """Root counts against the roots of all vCPUs."""

    name = "audit/root-counts"

    def __init__(self, vm: Vm) -> None:
        self.pages = vm.mmu.cache.pages
        self.roots = tuple(root for vcpu in vm.vcpus for root in vcpu.roots)

    def watched(self) -> tuple[Cell[Any], ...]:
        return (*self.roots, *(page.root_count for page in self.pages))

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        loaded = [page for root in self.roots for page in view[root].pages]
        return tuple(
            [
                SPEC.finding(
                    "audit/root-counts",
                    f"sp{page.number} counts {view[page.root_count]} users, but is a root "
                    f"{loaded.count(page.number)} times",
                    page.root_count.name,
                    *(root.name for root in self.roots),
                )
                for page in self.pages
                if view[page.root_count] != loaded.count(page.number)
            ]
        )

    def incremental(
        self, state: object, view: View, written: tuple[Cell[Any], ...]
    ) -> tuple[Finding, ...]:
        del written
        return self.full(state, view)


def _build(world: World, vm: Vm | None) -> RootCounts | None:
    del world
    return None if vm is None else RootCounts(vm)


SPEC = Oracle(
    title="the root count of a shadow page is the number of vCPUs that run on it",
    source="KVM 3bb65a22a4 (2007, root_count)",
    rule="a shadow page counts each vCPU whose root it is, and nobody else",
    build=_build,
)
