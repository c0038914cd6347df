"""A page that the guest wrote is dirty when the host takes it."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.features.page_flags import Memslots, PageCleaned
from vmm.hw.events import Access
from vmm.mmu.memslots import gfn_of
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

Gfns = tuple[int, ...]


class LostDirty(Monitor):
    """The state is the frames that were written since their page was last clean."""

    name = "dirty/lost"
    events = (Access, PageCleaned)

    def __init__(self, slots: Memslots) -> None:
        self.slots = slots

    def initial(self) -> Gfns:
        return ()

    def on_event(self, state: Gfns, event: Event, step: Step, view: View) -> Verdict:
        del step, view
        match event:
            case Access(_, _, pfn, True) if (gfn := gfn_of(pfn)) not in state:
                return tuple(sorted((*state, gfn))), ()
            case PageCleaned(gfn, dirty) if gfn in state:
                left = tuple([other for other in state if other != gfn])
                return left, () if dirty else (self._finding(gfn),)
        return state, ()

    def _finding(self, gfn: int) -> Finding:
        return SPEC.finding(
            self.name,
            f"the guest wrote gfn {gfn:#x}, but the host takes its page for clean: what was "
            "written is thrown away",
            self.slots.flags.name,
            f"rmap of gfn {gfn:#x}",
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
