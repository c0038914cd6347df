"""No processor walks a shadow page that was zapped, once the zap is over."""

from __future__ import annotations

from vmm.engine.events import AuditPoint, Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.hw.events import WalkRead
from vmm.mmu.api import ShadowPageFreed, ShadowPageInvalid
from vmm.mmu.mmu import ShadowMmu
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

Numbers = tuple[int, ...]
State = tuple[Numbers, Numbers]


class InvalidPageWalked(Monitor):
    """The state is (invalid pages, those that become so in this critical section)."""

    name = "lifetime/invalid-page-walked"
    events = (AuditPoint, ShadowPageFreed, ShadowPageInvalid, WalkRead)

    def __init__(self, mmu: ShadowMmu) -> None:
        self.mmu = mmu

    def initial(self) -> State:
        return (), ()

    def on_event(self, state: State, event: Event, step: Step, view: View) -> Verdict:
        del view
        invalid, coming = state
        if not invalid and isinstance(event, WalkRead):
            return state, ()
        match event:
            case ShadowPageInvalid(page, _) if page not in invalid and page not in coming:
                return (invalid, tuple(sorted((*coming, page)))), ()
            case ShadowPageFreed(page, _) if page in invalid or page in coming:
                return (_without(invalid, page), _without(coming, page)), ()
            case AuditPoint() if coming:
                return (tuple(sorted((*invalid, *coming))), ()), ()
            case WalkRead(pcpu, table, gva, level) if invalid:
                page = table - self.mmu.cache.pages[0].pfn
                if page in invalid:
                    message = (
                        f"the walker of pCPU {pcpu} reads level {level} for gva {gva:#x} in "
                        f"sp{page}, which was zapped and follows no guest table any more"
                    )
                    cells = [step.op.cell.name] if step.op.cell is not None else []
                    found = SPEC.finding("lifetime/invalid-page-walked", message, *cells)
                    return state, (found,)
        return state, ()


def _without(pages: Numbers, page: int) -> Numbers:
    return tuple([p for p in pages if p != page])


def _build(world: World, vm: Vm | None) -> InvalidPageWalked | None:
    del world
    return None if vm is None else InvalidPageWalked(vm.mmu)


SPEC = Oracle(
    title="zapped pages that are still in use are walked by no processor",
    source="KVM 2e53d63acb (2008)",
    rule="once mmu_lock is released after a zap, no guest runs on the page that was zapped",
    build=_build,
)
