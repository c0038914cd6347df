"""A guest reaches memory only by translations that a processor without a hypervisor may use.

What each vCPU might have cached follows from what happened to the guest's own tables and from the
vCPU's own invalidations alone; ``vmm.hw.held`` says how. Nothing of KVM's is looked at: not the
shadow, nor TLBs, nor requests.

    vCPU 0                                 vCPU 1
    DATA is frame 2
                                           stores gpte: DATA is frame 4
    reads DATA in frame 2: may be cached
    INVLPG DATA
    reads DATA in frame 2   <--   no table says so since the INVLPG

Departs from the processor: while KVM emulates a store of one vCPU, another one that invalidates may
still meet the old value afterwards, as if the store came after its invalidation. KVM makes the
store visible before the shadow has followed.

Not judged: page faults that should not be, accesses that the emulator makes.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from vmm.bits import G, P, describe_rights
from vmm.engine.events import Event
from vmm.engine.monitor import Finding, Monitor, Step, Verdict, View
from vmm.engine.world import World
from vmm.hw.access import AccessKind
from vmm.hw.events import Access, Exchange, Invlpg, Invpcid, RegistersWritten
from vmm.hw.held import UNCHANGED, Cached
from vmm.hw.history import KnownWalks, Leaf, compact, leaves
from vmm.hw.memory import part_of
from vmm.hw.paging import Controls, PagingMode, PagingRegisters, format_of
from vmm.mmu.api import EmulatedStore, EmulatedStoreDone, GuestPageFault
from vmm.mmu.memslots import gfn_of
from vmm.monitors import Oracle
from vmm.units import ENTRY_BYTES, Gpa, Gva, gpa_to_gfn
from vmm.vcpu.events import FlushDeferred
from vmm.vcpu.vcpu import Vm


class Emulated(NamedTuple):
    """An emulated store that the shadow has not followed yet; ``old`` is what it replaced."""

    vcpu: int
    gpa: Gpa
    old: int


class State(NamedTuple):
    """What each vCPU may hold, and the emulated stores under way.

    ``has_global``: some entry was global at some time, so that MOV CR3 may leave it.
    """

    cached: tuple[Cached, ...]
    emulated: tuple[Emulated, ...] = ()
    has_global: bool = False


class Architecture(Monitor):
    """Follows the guest's tables and invalidations, and judges each access."""

    name = "architecture/translation"
    events = (
        Access,
        EmulatedStore,
        EmulatedStoreDone,
        Exchange,
        FlushDeferred,
        GuestPageFault,
        Invlpg,
        Invpcid,
        RegistersWritten,
    )

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.memory = vm.mmu.memory
        self.walks = [KnownWalks(self.memory.word) for _ in vm.vcpus]

    def initial(self) -> State:
        has_global = any(_maybe_global(word) for word in self.vm.layout.content.values())
        return State((UNCHANGED,) * len(self.vm.vcpus), has_global=has_global)

    def on_event(self, state: State, event: Event, step: Step, view: View) -> Verdict:
        match event:
            case Access():
                # A store may hit the very entry that led it there.
                after = self._stored(state, step, view) if event.write else state
                if self._allowed(after.cached[event.pcpu], event, view):
                    return after, ()
                return state, (self._finding(event, view),)
            case EmulatedStore(gpa, vcpu):
                olds = [c.old for c in step.changes if c.cell.key == gpa and c.old != c.new]
                under_way = [*state.emulated, *[Emulated(vcpu, gpa, old) for old in olds]]
                state = state._replace(emulated=tuple(sorted(under_way)))
                return self._stored(state, step, view), ()
            case Exchange():
                return self._stored(state, step, view), ()
            case EmulatedStoreDone(gpa, vcpu):
                rest = [e for e in state.emulated if (e.gpa, e.vcpu) != (gpa, vcpu)]
                return state._replace(emulated=tuple(rest)), ()
            case GuestPageFault(number, gva) | Invlpg(number, gva):
                left = state.cached[number].invlpg(self._registers(number, view), gva)
                return self._replaced(state, number, left, view), ()
            case FlushDeferred(number):
                return self._replaced(state, number, UNCHANGED, view), ()
            case RegistersWritten(number):
                left = state.cached[number].written(event, has_global=state.has_global)
                left = self._shortened(left, event, view)
                return self._replaced(state, number, left, view), ()
            case Invpcid(number):
                registers, has_global = self._registers(number, view), state.has_global
                left = state.cached[number].invpcid(event, registers, has_global=has_global)
                return self._replaced(state, number, left, view), ()
        return state, ()

    # --- what a vCPU may hold ---

    def _stored(self, state: State, step: Step, view: View) -> State:
        """Stores to the guest's memory: what they replaced may still be cached."""
        stores = [
            (int(change.cell.key), change.old, change.new)  # type: ignore[call-overload]
            for change in step.changes
            if change.cell.array in self.memory.arrays and change.old != change.new
        ]
        if not stores:
            return state
        made = []
        for number, cached in enumerate(state.cached):
            made.append(cached.lose(self._registers(number, view).controls, stores))
        has_global = state.has_global or any(_maybe_global(new) for _, _, new in stores)
        return state._replace(cached=tuple(made), has_global=has_global)

    def _shortened(self, cached: Cached, event: RegistersWritten, view: View) -> Cached:
        """What is left by MOV CR3, in as few words if they were many."""
        held = cached.held
        if not event.mov_cr3 or cached.parked or len(held.history) <= held.long:
            return cached
        history = compact(held.history, self._entries(event.old.controls, view))
        return cached._replace(held=held._replace(history=history, compacted=len(history)))

    def _replaced(self, state: State, number: int, cached: Cached, view: View) -> State:
        """A vCPU invalidated; of stores under way it may still meet the old values."""
        controls = self._registers(number, view).controls
        for _, gpa, old in state.emulated:
            cached = cached.lose(controls, [(gpa, old, view[self.memory.word(gpa)])])
        return state._replace(
            cached=(*state.cached[:number], cached, *state.cached[number + 1 :]),
        )

    def _registers(self, number: int, view: View) -> PagingRegisters:
        return view[self.vm.vcpus[number].registers]

    # --- judging ---

    def _allowed(self, cached: Cached, event: Access, view: View) -> bool:
        registers = self._registers(event.pcpu, view)
        if registers.controls.mode is PagingMode.NONE:
            return event.gva >> 12 == gfn_of(event.pfn)
        # Mostly the tables say so as they are now; only if not, what they said matters.
        now = self.walks[event.pcpu].leaf(registers, event.gva, view.__getitem__)
        if now is not None and _serves(now, event, registers):
            return True
        if cached == UNCHANGED:
            return False
        read = partial(self._entry, view)
        return any(
            _serves(leaf, event, then) for leaf, then in cached.leaves(registers, event.gva, read)
        )

    def _entries(self, controls: Controls, view: View) -> dict[int, int]:
        """All that memory holds, as entries of a mode by gpa."""
        size = format_of(controls).entry_bytes
        return {
            gpa: part_of(value, gpa, size)
            for array in self.memory.arrays
            for word, value in view.items(array)
            for gpa in range(word, word + ENTRY_BYTES, size)
        }

    def _entry(self, view: View, gpa: int, size: int) -> int:
        return part_of(view[self.memory.word(gpa)], gpa, size)

    def _finding(self, event: Access, view: View) -> Finding:
        registers = self._registers(event.pcpu, view)
        read = partial(self._entry, view)
        now = [
            f"gfn {gpa_to_gfn(Gpa(leaf.gpa)):#x} {describe_rights(leaf.rights)}"
            for leaf in leaves((), registers, event.gva, read)
        ]
        verb = "writes" if event.write else "fetches" if event.fetch else "reads"
        how = "a TLB entry" if event.cached else "a walk of the shadow"
        return SPEC.finding(
            "architecture/translation",
            f"vCPU {event.pcpu} {verb} gva {event.gva:#x} in gfn {gfn_of(event.pfn):#x} through "
            f"{how}: no processor would, since its tables lead to {now[0] if now else 'no page'}, "
            "and what they said before is invalidated",
            f"tlb{event.pcpu}",
            *self._walked(registers, event.gva, view),
        )

    def _walked(self, registers: PagingRegisters, gva: Gva, view: View) -> list[str]:
        """The words of the tables that a walk meets now."""
        names: list[str] = []

        def read(gpa: int, size: int) -> int:
            names.append(self.memory.word(gpa).name)
            return self._entry(view, gpa, size)

        list(leaves((), registers, gva, read))
        return names


def _serves(leaf: Leaf, event: Access, registers: PagingRegisters) -> bool:
    """Whether an access may have gone through a translation of its page."""
    kind = AccessKind(event.write, event.user, event.fetch)
    return gpa_to_gfn(Gpa(leaf.gpa)) == gfn_of(event.pfn) and leaf.permits(kind, registers)


def _maybe_global(word: int) -> bool:
    """Whether a word may be a global entry, or two of 4 bytes of which one may be."""
    return any(entry & (P | G) == P | G for entry in (word, word >> 32))


def _build(world: World, vm: Vm | None) -> Architecture | None:
    del world
    return None if vm is None else Architecture(vm)


SPEC = Oracle(
    title="a guest uses only translations that a processor may hold of its own tables",
    source="Intel SDM vol. 3, 4.10.2 to 4.10.5",
    rule=(
        "an access goes through a walk of the guest's own tables that could be made since the vCPU "
        "last invalidated it"
    ),
    build=_build,
)
