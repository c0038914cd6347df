"""A page that the guest wrote is dirty when the host takes it."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.features.page_flags import Memslots, PageCleaned
from vmm.hw.events import Access
from vmm.mmu.memslots import gfn_of
from vmm.monitors import Oracle
from vmm.units import has_number, with_number, without_number
from vmm.vcpu.vcpu import Vm

Pfns = tuple[int, ...]


class LostDirty(Monitor):
    """The state is the host pages that were written since they were last clean."""

    name = "dirty/lost"
    events = (Access, PageCleaned)

    def __init__(self, slots: Memslots) -> None:
        self.slots = slots

    def initial(self) -> Pfns:
        return ()

    def on_event(self, state: Pfns, event: Event, step: Step, view: View) -> Verdict:
        del step, view
        match event:
            case Access(_, _, pfn, write):
                return with_number(state, pfn) if write else state, ()
            case PageCleaned(pfn, dirty) if has_number(state, pfn):
                left = without_number(state, pfn)
                return left, () if dirty else (self._finding(pfn),)
        return state, ()

    def _finding(self, pfn: int) -> Finding:
        return SPEC.finding(
            self.name,
            f"the guest wrote host page {pfn:#x}, but the host takes it for clean: what was "
            "written is thrown away",
            self.slots.flags.name,
            f"rmap of gfn {gfn_of(pfn):#x}",
        )


def _build(world: World, vm: Vm | None) -> LostDirty | None:
    del world
    if vm is None or not isinstance(vm.mmu.slots, Memslots):
        return None
    return LostDirty(vm.mmu.slots)


SPEC = Oracle(
    title="no write of the guest is thrown away with a page that looks clean",
    source="KVM 9ed5520dd3c9 (2010)",
    rule="a page that the guest wrote since it was last clean is dirty when the host takes it",
    build=_build,
)
