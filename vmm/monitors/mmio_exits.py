"""An access exits to userspace as MMIO only if its frame has no memory."""

from __future__ import annotations

from typing import NamedTuple

from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.features.memslots import MemslotReady, Memslots, MemslotsPublished, MmioExit, Slot
from vmm.monitors import Oracle
from vmm.units import gpa_to_gfn
from vmm.vcpu.events import Exit
from vmm.vcpu.vcpu import Vm

Slots = tuple[Slot, ...]


class State(NamedTuple):
    """``ready``: the slots that userspace was told are there.

    ``must_find``: those of them that were there already when each vCPU exited last.
    """

    ready: Slots
    must_find: tuple[Slots, ...]


class MmioExits(Monitor):
    """Who exits after a slot was made finds it, until it begins to go."""

    name = "mmio/memory-there"
    events = (Exit, MemslotReady, MemslotsPublished, MmioExit)

    def __init__(self, slots: Memslots, vcpus: int) -> None:
        self.slots = slots
        self.vcpus = vcpus

    def initial(self) -> State:
        there = self.slots.memslots.initial.slots
        return State(there, (there,) * self.vcpus)

    def on_event(self, state: State, event: Event, step: Step, view: View) -> Verdict:
        del step, view
        match event:
            case MemslotReady(slot):
                return state._replace(ready=tuple(sorted((*state.ready, slot)))), ()
            case MemslotsPublished(slots):
                known = tuple([_still(found, slots) for found in state.must_find])
                return State(_still(state.ready, slots), known), ()
            case Exit(number, _):
                known = (*state.must_find[:number], state.ready, *state.must_find[number + 1 :])
                return state._replace(must_find=known), ()
            case MmioExit(number, gpa, write):
                gfn = gpa_to_gfn(gpa)
                for slot in state.must_find[number]:
                    if gfn in slot:
                        verb = "write" if write else "read"
                        message = (
                            f"a {verb} of vCPU {number} at gpa {gpa:#x} exits to userspace as "
                            f"MMIO, but the memory slot {slot} was there before the vCPU exited"
                        )
                        found = SPEC.finding(self.name, message, self.slots.memslots.name)
                        return state, (found,)
        return state, ()


def _still(known: Slots, slots: Slots) -> Slots:
    return tuple([slot for slot in known if slot in slots])


def _build(world: World, vm: Vm | None) -> MmioExits | None:
    del world
    if vm is None or not isinstance(vm.mmu.slots, Memslots):
        return None
    return MmioExits(vm.mmu.slots, len(vm.vcpus))


SPEC = Oracle(
    title="what exits to userspace as MMIO has no memory",
    source="KVM 56f17dd3fbc4 and ee3d1570b586 (3.17); Documentation/virt/kvm/api.rst, 4.35",
    rule="once a memory slot was made, no access that begins then exits as MMIO in a frame of it",
    build=_build,
)
