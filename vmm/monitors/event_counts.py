"""Counts what a machine did: exits by reason, shadow pages, flushes. Judges nothing."""

from __future__ import annotations

from collections.abc import Mapping

from vmm.engine.events import Event
from vmm.engine.monitor import Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.hw.events import TlbFlush
from vmm.mmu.api import EmulatedStore, ShadowPageFreed, ShadowPageMade
from vmm.monitors import Oracle
from vmm.vcpu.events import Enter, Exit, UserExit
from vmm.vcpu.vcpu import Vm

NAMES: Mapping[type[Event], str] = {
    Enter: "entries",
    EmulatedStore: "emulated stores",
    ShadowPageFreed: "shadow pages zapped",
    ShadowPageMade: "shadow pages made",
    TlbFlush: "TLB flushes",
}

Counts = Mapping[str, int]


class EventCounts(Monitor):
    """The state is the counts by name; it never repeats, so no search carries it."""

    name = "counts/events"
    events = (*NAMES, Exit, UserExit)
    counts = True

    def initial(self) -> Counts:
        return {}

    def on_event(self, state: Counts, event: Event, step: Step, view: View) -> Verdict:
        del step, view
        match event:
            case Exit(_, reason):
                name = f"exits: {reason}"
            case UserExit(_, error):
                name = f"returns to userspace: {error}"
            case _:
                name = NAMES[type(event)]
        return {**state, name: state.get(name, 0) + 1}, ()

    def summary(self, state: Counts) -> Counts:
        return dict(sorted(state.items()))


def _build(world: World, vm: Vm | None) -> EventCounts | None:
    del world
    return None if vm is None else EventCounts()


SPEC = Oracle(
    title="counts exits by reason, shadow pages, emulated stores and TLB flushes of a live run",
    source="KVM's own statistics (kvm_stat)",
    rule="none: it only counts",
    build=_build,
)
