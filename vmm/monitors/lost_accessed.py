"""A page that the guest used since the host last asked is young when it asks again."""

from __future__ import annotations

from typing import NamedTuple

from vmm.engine.events import Event
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.features.page_flags import Memslots, PageAged, PageAgeing
from vmm.hw.events import Access
from vmm.mmu.memslots import gfn_of
from vmm.monitors import Oracle
from vmm.units import has_number, with_number, without_number
from vmm.vcpu.vcpu import Vm

Pfns = tuple[int, ...]


class State(NamedTuple):
    """``used``: host pages that were used since they were aged; ``asked``: those being aged now."""

    used: Pfns = ()
    asked: Pfns = ()


class LostAccessed(Monitor):
    """Uses while a page is being aged may be told or not: a TLB may serve them for a while yet."""

    name = "accessed/lost"
    events = (Access, PageAgeing, PageAged)

    def __init__(self, slots: Memslots) -> None:
        self.slots = slots

    def initial(self) -> State:
        return State()

    def on_event(self, state: State, event: Event, step: Step, view: View) -> Verdict:
        del step, view
        match event:
            case Access(_, _, pfn):
                if has_number(state.used, pfn):
                    return state, ()
                return state._replace(used=with_number(state.used, pfn)), ()
            case PageAgeing(pfn) if has_number(state.used, pfn):
                return state._replace(asked=with_number(state.asked, pfn)), ()
            case PageAged(pfn, young):
                left = State(without_number(state.used, pfn), without_number(state.asked, pfn))
                lost = pfn in state.asked and not young
                return left, (self._finding(pfn),) if lost else ()
        return state, ()

    def _finding(self, pfn: int) -> Finding:
        return SPEC.finding(
            self.name,
            f"the guest used host page {pfn:#x} since the host last asked, but it is not young: a "
            "page in use is swapped out",
            self.slots.flags.name,
            f"rmap of gfn {gfn_of(pfn):#x}",
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
