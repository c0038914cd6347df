"""What a recording says of a replay in its own order: the oracle of recorded guests.

As soon as an event comes out of order the recording says nothing more, and neither does the oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vmm.engine.events import Event
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.hw.events import Access
from vmm.units import ENTRY_BYTES, PAGE_SHIFT
from vmm.vcpu.vcpu import Vm
from vmm.workload.ptrace import Checkpoint, LoadCr3, PageFault, Recording, RootDead
from vmm.workload.replay import Action, Replayed
from vmm.workload.tables import GuestTables

SOURCE = "the recording; its digests were taken from the guest's RAM"


class ReplayState:
    """How far a replay in the recorded order has come, and the tables as the model holds them."""

    def __init__(self, recording: Recording) -> None:
        self.done = 0
        self.in_order = True
        self.checkpoints = 0
        self.touches = 0
        self.faults = 0
        self.tables = GuestTables(recording.tables)
        self.words: dict[str, list[int]] = {}
        """What the cells of an array held at the last checkpoint, in the order of first touch."""


class AsRecorded(Monitor):
    """Holds translations, faults and table contents against the recording."""

    name = "recording/differs"
    events = (Access, Replayed)
    counts = True

    def __init__(self, vm: Vm, recording: Recording, actions: Sequence[tuple[int, Action]]) -> None:
        self.vm = vm
        self.recording = recording
        self.actions: Mapping[int, tuple[int, Action]] = {a.number: (c, a) for c, a in actions}

    def initial(self) -> ReplayState:
        return ReplayState(self.recording)

    def summary(self, state: ReplayState) -> Mapping[str, int]:
        return {
            "recording: events in order": state.done,
            "recording: checkpoints held": state.checkpoints,
            "recording: translations as recorded": state.touches,
            "recording: faults as recorded": state.faults,
        }

    def on_event(self, state: ReplayState, event: Event, step: Step, view: View) -> Verdict:
        del step
        if not state.in_order:
            return state, ()
        if isinstance(event, Access):
            return state, self._access(state, event)
        assert isinstance(event, Replayed)
        state.in_order = event.number == state.done + 1
        if not state.in_order:
            return state, ()
        state.done += 1
        return state, self._event(state, event, view)

    def _access(self, state: ReplayState, event: Access) -> tuple[Finding, ...]:
        cpu, action = self.actions[state.done + 1]
        if action.gpa < 0 or event.pcpu != cpu:
            return ()
        state.touches += 1
        if event.pfn == action.gpa >> PAGE_SHIFT:
            return ()
        return self._finding(
            action,
            f"gva {action.gva:#x} leads to frame {event.pfn:#x}, "
            f"recorded was {action.gpa >> PAGE_SHIFT:#x}",
        )

    def _event(self, state: ReplayState, event: Replayed, view: View) -> tuple[Finding, ...]:
        _, action = self.actions[event.number]
        if event.number > len(self.recording.events):
            recorded = None
        else:
            recorded = self.recording.events[event.number - 1]
        match recorded:
            case Checkpoint():
                return self._checkpoint(state, recorded, action, view)
            case LoadCr3(value=value):
                state.tables.load_root(value)
            case RootDead(pfn=pfn):
                state.tables.drop_root(pfn)
            case _:
                pass
        expected = recorded.error if isinstance(recorded, PageFault) else -1
        state.faults += expected >= 0
        if event.error == expected:
            return ()
        return self._finding(
            action,
            f"{action.verb} of gva {action.gva:#x} gave {_fault(event.error)}, "
            f"recorded was {_fault(expected)}",
        )

    def _checkpoint(
        self, state: ReplayState, recorded: Checkpoint, action: Action, view: View
    ) -> tuple[Finding, ...]:
        state.checkpoints += 1
        for array in self.vm.mmu.memory.arrays:
            cells = list(array.cells.values())
            known = state.words.get(array.name, [])
            known += [cell.initial for cell in cells[len(known) :]]
            state.words[array.name] = words = view.values(cells)
            for gpa, old, word in zip(array.cells, known, words, strict=True):
                if old != word:
                    state.tables.store(gpa, ENTRY_BYTES, word)
        pages, sha, sha_ad = state.tables.digest()
        found = (pages, sha[: len(recorded.sha)], sha_ad[: len(recorded.sha_ad)])
        if found == (recorded.pages, recorded.sha, recorded.sha_ad):
            return ()
        return self._finding(
            action,
            f"checkpoint: the tables in memory are {found}, "
            f"recorded were {(recorded.pages, recorded.sha, recorded.sha_ad)}",
        )

    def _finding(self, action: Action, message: str) -> tuple[Finding, ...]:
        return (
            Finding(
                self.name,
                f"event {action.number}: {message}",
                "in its recorded order a guest sees what it saw when it was recorded",
                SOURCE,
            ),
        )


class AsRecordedFactory:
    """Makes the oracle for a machine, on the events that its programs carry out."""

    def __init__(self, recording: Recording, actions: Sequence[tuple[int, Action]]) -> None:
        self.recording = recording
        self.actions = actions

    def __call__(self, world: World, vm: Vm | None) -> AsRecorded | None:
        del world
        return None if vm is None else AsRecorded(vm, self.recording, self.actions)


def _fault(error: int) -> str:
    return "no fault" if error < 0 else f"#PF with error code {error}"
