"""Every page that the guest writes is told to userspace by the next reading of the dirty log."""

from __future__ import annotations

from vmm.engine.events import Event
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.features.dirty_log import DirtyLogRead, DirtyLogTaken, LocklessWritable, Memslots
from vmm.hw.events import Access
from vmm.mmu.memslots import gfn_of
from vmm.monitors import Oracle
from vmm.units import has_number, with_number
from vmm.vcpu.events import Enter
from vmm.vcpu.vcpu import Vm

Gfns = tuple[int, ...]
Owed = tuple[tuple[int, int], ...]
State = tuple[Gfns, Gfns, Owed]


class DirtyLogExact(Monitor):
    """The state is (frames written and not told yet, frames that are being told, frames owed).

    Userspace copies a page after it is told, so writes during the call are covered by it. A frame
    that a vCPU made writable without the lock is owed by it (vCPU, gfn) until it enters the guest:
    others may write the frame before it is logged, and are told of one reading later.
    """

    name = "dirty-log/write-lost"
    events = (Access, DirtyLogTaken, DirtyLogRead, LocklessWritable, Enter)

    def __init__(self, slots: Memslots) -> None:
        self.slots = slots

    def initial(self) -> State:
        return (), (), ()

    def on_event(self, state: State, event: Event, step: Step, view: View) -> Verdict:
        del step
        untold, telling, owed = state
        match event:
            case Access(_, _, pfn, write):
                if not write or has_number(untold, gfn_of(pfn)):
                    return state, ()
                untold = with_number(untold, gfn_of(pfn))
            case DirtyLogTaken(gfns):
                return (untold, gfns, owed), ()
            case DirtyLogRead(gfns):
                untold = tuple([gfn for gfn in untold if gfn not in gfns])
                telling = ()
            case LocklessWritable(vcpu, gfn):
                return (untold, telling, (*owed, (vcpu, gfn))), ()
            case Enter(vcpu) if any(debtor == vcpu for debtor, _ in owed):
                owed = tuple([debt for debt in owed if debt[0] != vcpu])
            case _:
                return state, ()
        known = frozenset((*telling, *view[self.slots.dirty], *[gfn for _, gfn in owed]))
        lost = [] if known.issuperset(untold) else [gfn for gfn in untold if gfn not in known]
        return (untold, telling, owed), tuple([self._finding(gfn) for gfn in lost])

    def _finding(self, gfn: int) -> Finding:
        return SPEC.finding(
            "dirty-log/write-lost",
            f"the guest wrote gfn {gfn:#x}, which is not in the dirty bitmap and was not told",
            self.slots.dirty.name,
            f"rmap of gfn {gfn:#x}",
        )


def _build(world: World, vm: Vm | None) -> DirtyLogExact | None:
    del world
    if vm is None or not isinstance(vm.mmu.slots, Memslots):
        return None
    return DirtyLogExact(vm.mmu.slots)


SPEC = Oracle(
    title="no write of the guest is missing from the dirty log",
    source="KVM 171d595d3b3 (2008); Documentation/virt/kvm/api.rst, KVM_GET_DIRTY_LOG",
    rule="a frame that the guest wrote since the log was last read is in the dirty bitmap",
    build=_build,
)
