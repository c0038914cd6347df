"""Replaying a recorded guest on the machine: its tables, its events as guest programs, its order.

Each vCPU carries out its own events in the order in which it did. In what order the vCPUs take
turns is the picker's affair: ``RecordedOrder`` repeats the recording, any other one makes up a
guest that never was, for which only the invariants of the MMU still hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from vmm.engine.events import Event
from vmm.engine.ops import Mark, Op, mark
from vmm.engine.world import World
from vmm.hw.layout import Layout
from vmm.units import ENTRY_BYTES, Gfn, Gva
from vmm.vcpu.guest import Guest
from vmm.workload import ptrace
from vmm.workload.ptrace import Recording, read_recording
from vmm.workload.tables import RecordedGuest

DIRECT_MAP = Gva(0xFFFF_8880_0000_0000)
"""Linux maps all of RAM here: gva = DIRECT_MAP + gpa."""
FRAME = 0x000F_FFFF_FFFF_F000
ESPFIX = range(0xFFFF_FF00_0000_0000, 0xFFFF_FF80_0000_0000)
"""One table of stacks mapped 65,536 times: a sweep visits its neighbours instead."""
STRING_STORES = 8
"""So many equal stores in a row are REP STOS: Linux clears pages and fills memory with it."""
WRITE, USER, FETCH = 1 << 1, 1 << 2, 1 << 4


class Action(NamedTuple):
    """One event as its vCPU carries it out. ``number`` counts events of all vCPUs, from 1."""

    number: int
    verb: str
    gva: int = 0
    size: int = 0
    value: int = 0
    times: int = 0
    error: int = 0
    gpa: int = -1


class Replayed(Event, frozen=True):
    """An event of a recording has been carried out; ``error`` is -1 or a guest fault's code."""

    number: int
    error: int


async def perform(cpu: Guest, action: Action) -> None:
    """Carry out one event on its vCPU."""
    error = -1
    if action.verb == "touch":
        fault = await cpu.touch(
            action.gva,
            user=bool(action.error & USER),
            write=bool(action.error & WRITE),
            fetch=bool(action.error & FETCH),
        )
        error = -1 if fault is None else fault.error_code
    elif action.verb == "store":
        bounds = (action.gva, action.size * action.times)
        if action.times >= STRING_STORES and not any(bound % ENTRY_BYTES for bound in bounds):
            await cpu.store_string(action.gva, action.value, action.size, action.times)
        else:
            for offset in range(0, action.size * action.times, action.size):
                await cpu.store(action.gva + offset, action.value, size=action.size)
    elif action.verb == "load cr3":
        await cpu.mov_cr3(action.value & FRAME)
    elif action.verb == "invlpg":
        await cpu.invlpg(action.gva)
    else:
        # Nothing happens, but while it waits for its turn the vCPU can be interrupted.
        await cpu.boundary()
    await mark(Replayed(action.number, error))


class RecordedLinux:
    """A recording as a machine, programs and an order. Reads its file at first use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._actions: dict[tuple[int, bool], Sequence[tuple[int, Action]]] = {}

    @cached_property
    def recording(self) -> Recording:
        """The recording itself. Errors: RecordingError."""
        return read_recording(self.path)

    @cached_property
    def tables(self) -> Layout:
        """The guest's page tables when the recording starts."""
        pages = self.recording.tables
        roots = {f"{page.pfn:x}": Gfn(page.pfn) for page in pages if page.level == 4}
        content = {
            (page.pfn << 12) + ENTRY_BYTES * index: value
            for page in pages
            for index, value in page.entries
        }
        return Layout(roots, {Gfn(page.pfn): ENTRY_BYTES for page in pages}, content)

    def starts(self) -> tuple[str, ...]:
        """The root that each vCPU starts on."""
        return tuple(f"{(r.cr3 & FRAME) >> 12:x}" for r in self.recording.registers)

    def actions(self, events: int, *, sweep: bool = False) -> Sequence[tuple[int, Action]]:
        """(vCPU, action) of the first ``events`` events, in the recorded order.

        ``sweep`` adds a load of every page that the tables map in the end, by vCPU 0.
        """
        if (events, sweep) not in self._actions:
            made = list(self._recorded(events))
            if sweep:
                made += self._sweep(events, len(made))
            self._actions[events, sweep] = tuple(made)
        return self._actions[events, sweep]

    def _recorded(self, events: int) -> Iterator[tuple[int, Action]]:
        cpu = 0
        for number, event in enumerate(self.recording.events[:events], 1):
            cpu = getattr(event, "cpu", cpu)
            yield cpu, _action(number, event)

    def _sweep(self, events: int, done: int) -> Iterator[tuple[int, Action]]:
        guest = RecordedGuest(self.recording)
        for event in self.recording.events[:events]:
            guest.apply(event)
        kernel = Gva(1 << 63)
        for order, root in enumerate(sorted(guest.tables.roots)):
            done += 1
            yield 0, Action(done, "load cr3", value=root << 12)
            for leaf in guest.tables.leaves(root):
                if leaf.gva in ESPFIX or (order and leaf.gva >= kernel):
                    continue
                done += 1
                yield 0, Action(done, "touch", gva=leaf.gva, gpa=leaf.gpa)


def _action(number: int, event: ptrace.Event) -> Action:
    match event:
        case ptrace.FirstTouch():
            error = event.writes * WRITE | event.user * USER | (event.kind == "x") * FETCH
            gpa = -1 if event.gpa is None else event.gpa
            return Action(number, "touch", gva=event.gva, error=error, gpa=gpa)
        case ptrace.PageFault():
            return Action(number, "touch", gva=event.cr2, error=event.error)
        case ptrace.TableStore(gpa=gpa, size=size, value=value, count=count):
            return Action(number, "store", DIRECT_MAP + gpa, size, value, count)
        case ptrace.DataStore(gpa=gpa, size=size, count=count):
            return Action(number, "store", DIRECT_MAP + gpa, size, 0, count)
        case ptrace.LoadCr3(value=value):
            return Action(number, "load cr3", value=value)
        case ptrace.Invlpg(gva=gva):
            return Action(number, "invlpg", gva=gva)
        case _:
            # A root's end and checkpoints are nothing that the processor does.
            return Action(number, "note")


class RecordedOrder:
    """The picker that repeats a recording: one event after the other, in the recorded order.

    While the vCPU whose turn it is waits, hardware moves first, then the others: as far as they
    must to acknowledge a flush, which is before their next access.
    """

    every_step = True

    def __init__(self, world: World, order: Sequence[int]) -> None:
        self._order = order
        self._at = 0
        self._vcpus = len([task for task in world.tasks if task.name.startswith("v")])

    def pick(self, enabled: Sequence[int], pending: Sequence[Op | None], last: int) -> int:
        """The vCPU whose event it is, if it can move."""
        del last
        turn = self._order[self._at] if self._at < len(self._order) else enabled[0]
        if turn in enabled:
            op = pending[turn]
            if isinstance(op, Mark) and isinstance(op.event, Replayed):
                self._at += 1
            return turn
        hardware = [number for number in enabled if number >= self._vcpus]
        return (hardware or enabled)[0]

    def branch(self, count: int) -> int:
        """Use what is cached: the guest's own order says when it is dropped."""
        del count
        return 0
