"""Once a memory slot is gone, its rmap is freed: nothing may be in it."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.features.memslots import MemslotFreed, Memslots
from vmm.mmu.mmu import ShadowMmu
from vmm.mmu.shadow_page import format_refs
from vmm.monitors import Oracle
from vmm.units import Gfn
from vmm.vcpu.vcpu import Vm


class MemslotLifetime(Monitor):
    """Looks at the frames of a slot when it goes. The model's rmap outlives it, KVM's does not."""

    name = "lifetime/memslot"
    events = (MemslotFreed,)

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    def on_event(self, state: object, event: Event, step: Step, view: View) -> Verdict:
        del step
        assert isinstance(event, MemslotFreed)
        found = []
        for gfn in range(event.slot.first, event.slot.first + event.slot.frames):
            chain = self.mmu.rmap.chains[Gfn(gfn)]
            if refs := view[chain]:
                message = (
                    f"the memory slot {event.slot} is gone, but gfn {gfn:#x} of it is still mapped "
                    f"by {format_refs(refs)}: its rmap is freed, so nobody will find that spte"
                )
                cells = (chain.name, *[f"spte {ref}" for ref in refs])
                found.append(SPEC.finding("lifetime/memslot", message, *cells))
        return state, tuple(found)


def _build(world: World, vm: Vm | None) -> MemslotLifetime | None:
    del world
    if vm is None or not isinstance(vm.mmu.slots, Memslots):
        return None
    return MemslotLifetime(vm.mmu)


SPEC = Oracle(
    title="nothing maps a memory slot that is gone",
    source="KVM bc6678a33d9b (2.6.34): no new sptes for an invalid slot",
    rule="when a memory slot is freed no spte maps a frame of it",
    build=_build,
)
