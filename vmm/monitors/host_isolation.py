"""Nobody reaches a host page that was given back: not by a TLB entry, not by a walk."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.features.gfn_pfn_cache import CachedPageUsed
from vmm.hw.events import Access, GiveBack, Take, WalkRead
from vmm.mmu.api import LocklessRead
from vmm.mmu.memslots import gfn_of
from vmm.monitors import Oracle
from vmm.vcpu.vcpu import Vm

Pfns = tuple[int, ...]


class HostIsolation(Monitor):
    """The state is the host pages that are given back and not handed out again."""

    name = "isolation/page-given-back"
    events = (Access, WalkRead, LocklessRead, CachedPageUsed, GiveBack, Take)

    def initial(self) -> Pfns:
        return ()

    def on_event(self, state: Pfns, event: Event, step: Step, view: View) -> Verdict:
        del view
        if not state and not isinstance(event, GiveBack):
            return state, ()
        cells = [] if step.op.cell is None else [step.op.cell.name]
        match event:
            case GiveBack(pfn):
                return tuple(sorted((*state, pfn))), ()
            case Take(pfn) if pfn in state:
                return tuple([p for p in state if p != pfn]), ()
            case Access(pcpu, gva, pfn, write, cached) if pfn in state:
                verb = "writes" if write else "reads"
                how = "a stale TLB entry" if cached else "a walk that had begun before"
                message = (
                    f"vCPU {pcpu} {verb} gva {gva:#x} in host page {pfn:#x}, which was given back, "
                    f"through {how}"
                )
                cells.append(f"rmap of gfn {gfn_of(pfn):#x}")
            case WalkRead(pcpu, table, gva, level) if table in state:
                message = (
                    f"the walker of pCPU {pcpu} reads level {level} for gva {gva:#x} in host page "
                    f"{table:#x}, a shadow page that was given back"
                )
            case LocklessRead(vcpu, table, gva, level) if table in state:
                message = (
                    f"vCPU {vcpu} reads level {level} for gva {gva:#x} without mmu_lock in host "
                    f"page {table:#x}, a shadow page that was given back"
                )
            case CachedPageUsed(gfn, pfn) if pfn in state:
                message = (
                    f"KVM stores to gfn {gfn:#x} in host page {pfn:#x}, which was given back, "
                    "through what it keeps of that frame"
                )
            case _:
                return state, ()
        return state, (SPEC.finding("isolation/page-given-back", message, *cells),)


def _build(world: World, vm: Vm | None) -> HostIsolation | None:
    del world
    return None if vm is None else HostIsolation()


SPEC = Oracle(
    title="no access and no walk reaches a host page that was given back",
    source="Intel SDM vol. 3, 4.10.4.4 (delayed invalidation); KVM 40907d5768 (2007)",
    rule="a host page may be given back only when no TLB and no walk can reach it any more",
    build=_build,
)
