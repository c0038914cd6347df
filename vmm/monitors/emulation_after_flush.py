"""What KVM has translated to emulate an instruction is not used after the guest had it flushed.

A guest that leaves a flush to a preempted vCPU (feature ``pv-flush``) goes on at once: it counts on
all that the vCPU had translated before being forgotten. The emulator's translation of the moment
lies in no TLB, so nobody can flush it.

    vCPU 0 (guest)                         vCPU 1 (KVM emulates its store)
                                           translates the operand
                                           is preempted
    has vCPU 1 flush; uses the page anew
                                           runs again; stores to the page   <--
"""

from __future__ import annotations

from enum import Enum

from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.features.pv_flush import Vcpu
from vmm.mmu.api import EmulatedStore
from vmm.monitors import Oracle
from vmm.vcpu.events import EmulatorTranslated, Enter, FlushDeferred
from vmm.vcpu.vcpu import Vm


class Emulation(Enum):
    """How far KVM has come with an instruction of a vCPU."""

    NONE = "none"
    TRANSLATED = "translated"
    FLUSHED = "flushed since"


class EmulationAfterFlush(Monitor):
    """Follows each vCPU from a translation of the emulator to its next entry."""

    name = "emulation/after-flush"
    events = (EmulatedStore, EmulatorTranslated, Enter, FlushDeferred)

    def __init__(self, vcpus: int) -> None:
        self.vcpus = vcpus

    def initial(self) -> tuple[Emulation, ...]:
        return (Emulation.NONE,) * self.vcpus

    def on_event(
        self, state: tuple[Emulation, ...], event: Event, step: Step, view: View
    ) -> Verdict:
        del step, view
        assert isinstance(event, EmulatedStore | EmulatorTranslated | Enter | FlushDeferred)
        number = event.vcpu
        match event:
            case EmulatorTranslated():
                now = Emulation.TRANSLATED
            case Enter():
                now = Emulation.NONE
            case FlushDeferred() if state[number] is Emulation.TRANSLATED:
                now = Emulation.FLUSHED
            case EmulatedStore(gpa) if state[number] is Emulation.FLUSHED:
                message = (
                    f"KVM stores to gpa {gpa:#x} for vCPU {number}, by a translation that the "
                    "guest has had flushed"
                )
                return state, (SPEC.finding("emulation/after-flush", message),)
            case _:
                now = state[number]
        return (*state[:number], now, *state[number + 1 :]), ()


def _build(world: World, vm: Vm | None) -> EmulationAfterFlush | None:
    del world
    if vm is None or not isinstance(vm.vcpus[0], Vcpu):
        return None
    return EmulationAfterFlush(len(vm.vcpus))


SPEC = Oracle(
    title="the emulator uses no translation that the guest has had flushed",
    source="KVM 6cd88243c7e0 (2022)",
    rule="no flush is left to a vCPU between an emulator's translation and its use",
    build=_build,
)
