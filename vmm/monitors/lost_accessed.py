"""A page that the guest used since the host last asked is young when it asks again."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.features.page_flags import Memslots, PageAged
from vmm.hw.events import Access
from vmm.mmu.memslots import gfn_of
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

Gfns = tuple[int, ...]


class LostAccessed(Monitor):
    """The state is the frames that were used since they were aged."""

    name = "accessed/lost"
    events = (Access, PageAged)

    def __init__(self, slots: Memslots) -> None:
        self.slots = slots

    def initial(self) -> Gfns:
        return ()

    def on_event(self, state: Gfns, event: Event, step: Step, view: View) -> Verdict:
        del step, view
        match event:
            case Access(_, _, pfn) if (gfn := gfn_of(pfn)) not in state:
                return tuple(sorted((*state, gfn))), ()
            case PageAged(gfn, young) if gfn in state:
                left = tuple([other for other in state if other != gfn])
                return left, () if young else (self._finding(gfn),)
        return state, ()

    def _finding(self, gfn: int) -> Finding:
        return SPEC.finding(
            self.name,
            f"the guest used gfn {gfn:#x} since the host last asked, but its page is not young: a "
            "page in use is swapped out",
            self.slots.flags.name,
            f"rmap of gfn {gfn:#x}",
        )


def _build(world: World, vm: Vm | None) -> LostAccessed | None:
    del world
    if vm is None or not isinstance(vm.mmu.slots, Memslots):
        return None
    return LostAccessed(vm.mmu.slots)


SPEC = Oracle(
    title="no use of a page is hidden from the host that ages it",
    source="Linux, mmu_notifier clear_flush_young; KVM 57128468080a (2014)",
    rule="a page that the guest accessed since it was last aged is young",
    build=_build,
)
