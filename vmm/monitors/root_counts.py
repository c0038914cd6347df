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
        self.root_counts = tuple(page.root_count for page in self.pages)
        self.roots = tuple(root for vcpu in vm.vcpus for root in vcpu.roots)

    def watched(self) -> tuple[Cell[Any], ...]:
        return (*self.roots, *self.root_counts)

    def full(self, state: object, view: View) -> tuple[Finding, ...]:
        del state
        loaded = [page for root in self.roots for page in view[root].pages]
        return tuple(
            [
                SPEC.finding(
                    "audit/root-counts",
                    f"sp{page.number} counts {users} users, but is a root "
                    f"{loaded.count(page.number)} times",
                    page.root_count.name,
                    *(root.name for root in self.roots),
                )
                for page, users in zip(self.pages, view.values(self.root_counts), strict=True)
                if users != loaded.count(page.number)
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
