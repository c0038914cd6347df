"""Nothing of the shadow MMU is left when a VM has been destroyed."""

from __future__ import annotations

from typing import Any

from vmm.engine.cells import Cell
from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.mmu.api import MmuDestroyed
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm


class Teardown(Monitor):
    """Looks for pages, parents and reverse-map entries that outlive the VM."""

    name = "lifetime/teardown"
    events = (MmuDestroyed,)

    def __init__(self, vm: Vm) -> None:
        self.mmu = vm.mmu

    def on_event(self, state: None, event: Event, step: Step, view: View) -> Verdict:
        del event, step
        lists: list[Cell[Any]] = [self.mmu.cache.active]
        lists += [page.parents for page in self.mmu.cache.pages]
        lists += [self.mmu.rmap.chains[gfn] for gfn, _ in view.items(self.mmu.rmap.chains)]
        return state, tuple(
            [
                SPEC.finding(
                    "lifetime/teardown",
                    f"the VM is destroyed, but {cell.name} still has {cell.format(view[cell])}",
                    cell.name,
                )
                for cell in lists
                if view[cell]
            ]
        )


def _build(world: World, vm: Vm | None) -> Teardown | None:
    del world
    return None if vm is None else Teardown(vm)


SPEC = Oracle(
    title="a destroyed VM leaves no shadow page, parent link or reverse-map entry",
    source="KVM f51234c2cd, 9ede74e0af (2007); 7b53aa5650 (2007)",
    rule="once a VM is destroyed, all that its MMU allocated is free",
    build=_build,
)
