"""Memory slots that come and go: readers are in an SRCU section, and a slot goes in two steps.

    vCPU 0 (faults on frame g)             host thread (deletes the slot of g)
    srcu read lock
    finds the slot of g; resolves P
                                           publish the slots, that of g invalid
                                           synchronize: waits for vCPU 0
    acquire mmu_lock; install the spte of P; release
    srcu read unlock
                                           acquire mmu_lock
                                           zap every spte in rmap[g], flush; release
    faults: the slot is invalid: retry
                                           publish the slots without that of g
                                           synchronize, free the slot
    faults: no slot: exits to userspace

Userspace owns the memory behind a slot. What it unmaps is told by the notifier, which looks for
sptes in the slots that there are: once a slot has gone, nobody can find its rmap any more. So there
must be no spte left, and since faults may make new ones, the slot is invalid first: no fault that
begins then maps a page of it, and the ones that began before are waited for. To move a slot is to
delete it and to make another one.

The generation says which slots these are. It goes up once nobody has the slots before any more;
until then it is marked as being updated, so that nothing is taken for current that was made of the
old slots and stamped afterwards (ee3d1570b586).

An access to a frame without memory is emulated, and left to userspace (KVM_EXIT_MMIO).

Departs from KVM, which zapped all shadow pages for a slot that went, until 6.12 only optionally:
here only its sptes and the shadows of tables in it. A fault that meets an invalid slot is retried,
as since e0c378684b65 (2021); it was taken for MMIO before. KVM's own reads and writes of guest
memory, but those that are emulated, take no notice of slots: page tables must lie in one that
stays. A load of what no device claims gives all ones.

Source: KVM bc6678a33d9b (2010, 2.6.34); 34d4cb8fca (2008, zap before a slot goes); ee3d1570b586
(2014, 3.17, two-step generation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vmm.engine.cells import Guard
from vmm.engine.events import Event
from vmm.engine.grace import make_srcu
from vmm.engine.ops import mark
from vmm.errors import UsageError
from vmm.features import Feature, notifier
from vmm.hw.access import AccessKind, GuestFault
from vmm.mmu import emulator, fault, pte_write
from vmm.mmu.api import FaultResult
from vmm.mmu.memslots import GENERATION_SHIFT, HostPage
from vmm.units import Gfn, Gpa, Gva, Pfn, gpa_to_gfn, table_index
from vmm.vcpu import guest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmm.engine.cells import Cell, Lock
    from vmm.engine.world import World
    from vmm.mmu.api import VcpuState
    from vmm.mmu.guest_walk import GuestWalk
    from vmm.mmu.mmu import ShadowMmu
    from vmm.mmu.shadow_page import ShadowPage

NO_SLOT, INVALID_SLOT = Pfn(-1), Pfn(-2)
"""In place of a host page: the frame has none, or its slot is on the way out."""
UNCLAIMED = (1 << 64) - 1
"""What a load from a bus gives that nothing answers on."""
SLOT_FRAMES_MAX = 512
"""A slot that is deleted is zapped frame by frame."""


class Slot(NamedTuple):
    """Frames that userspace has put memory behind. KVM: struct kvm_memory_slot."""

    first: int
    frames: int
    invalid: bool = False

    def __contains__(self, gfn: object) -> bool:
        return isinstance(gfn, int) and self.first <= gfn < self.first + self.frames

    def __str__(self) -> str:
        going = " (invalid)" if self.invalid else ""
        return f"gfn {self.first:#x} + {self.frames}{going}"


ALL_FRAMES = Slot(0, 1 << GENERATION_SHIFT)


class Slots(NamedTuple):
    """All slots. ``updating``: somebody may still use those before."""

    generation: int
    slots: tuple[Slot, ...]
    updating: bool = False

    def find(self, gfn: int) -> Slot | None:
        """The slot of a frame, invalid or not."""
        return next((slot for slot in self.slots if gfn in slot), None)


class MemslotReady(Event, frozen=True):
    """A slot was created: the guest has memory there."""

    slot: Slot


class MemslotsPublished(Event, frozen=True):
    """These are the slots that are found from here on; those before may still be in use."""

    slots: tuple[Slot, ...]


class MemslotFreed(Event, frozen=True):
    """A slot is gone, and its rmap with it."""

    slot: Slot


class MmioExit(Event, frozen=True):
    """KVM_RUN returned to userspace, which does the access of ``vcpu`` at ``gpa``."""

    vcpu: int
    gpa: Gpa
    write: bool


class Memslots(notifier.Memslots):
    """The slots of a VM. ``memslots`` may be read in a section of ``srcu`` or under slots_lock."""

    def __init__(self, world: World, lock: Lock) -> None:
        super().__init__(world, lock)
        self.slots_lock = world.lock("slots_lock", outside=(lock,))
        self.srcu = make_srcu(world, "kvm->srcu")
        self.memslots: Cell[Slots] = world.cell(
            "memslots",
            Slots(0, (ALL_FRAMES,)),
            guard=Guard.WRITE,
            lock=self.slots_lock,
            marked=True,
            format=_format,
        )

    def place(self, slots: Sequence[tuple[int, int]]) -> None:
        """The slots that a VM begins with; none given: one that has all frames."""
        if slots:
            self.memslots.initial = Slots(0, tuple([Slot(*slot) for slot in sorted(slots)]))

    async def pin(self, gfn: Gfn) -> HostPage:
        """The slot comes first, then the page. In a section of ``srcu``."""
        slot = (await self.memslots).find(gfn)
        if slot is None:
            return HostPage(gfn, NO_SLOT)
        if slot.invalid:
            await mark("invalid slot met")
            return HostPage(gfn, INVALID_SLOT)
        return await super().pin(gfn)

    async def still_holds(self, page: HostPage) -> bool:
        """What has no memory holds until the end of the section."""
        if page.pfn == NO_SLOT:
            return True
        return page.pfn != INVALID_SLOT and await super().still_holds(page)


# --- vCPUs: readers ---


class PageFault(fault.PageFault):
    """Looks the slot up and installs the spte in one section."""

    async def page_fault(
        self, vcpu: VcpuState, gva: Gva, kind: AccessKind
    ) -> FaultResult | GuestFault:
        """Fix the shadow for one access, or say what else must happen."""
        srcu = slots_of(self.mmu).srcu
        under = await srcu.read_lock()
        result = await super().page_fault(vcpu, gva, kind)
        await srcu.read_unlock(under)
        return result

    async def map_locked(
        self, vcpu: VcpuState, walk: GuestWalk, page: HostPage, kind: AccessKind
    ) -> FaultResult:
        """Who meets an invalid slot does not even take the lock, which its writer needs."""
        if page.pfn == INVALID_SLOT:
            return FaultResult.RETRY
        return await super().map_locked(vcpu, walk, page, kind)

    async def install_leaf(
        self, vcpu: VcpuState, page: ShadowPage, walk: GuestWalk, pfn: Pfn, kind: AccessKind
    ) -> FaultResult:
        """A frame without memory is mapped nowhere, and what was mapped there goes."""
        if pfn != NO_SLOT:
            return await super().install_leaf(vcpu, page, walk, pfn, kind)
        await self.install_mmio(vcpu, page, walk)
        return FaultResult.EMULATE

    async def install_mmio(self, vcpu: VcpuState, page: ShadowPage, walk: GuestWalk) -> None:
        """Drop what is in the place of an access without memory."""
        await self.mmu.set_spte.replace(vcpu, page, table_index(walk.gva, 1), 0)


class PteWrite(pte_write.PteWrite):
    """Emulated stores go to memory, or to userspace."""

    async def emulated_store(self, vcpu: VcpuState, gpa: Gpa, value: int, size: int) -> None:
        """Store up to 8 bytes within one page, in a section of its own."""
        slots = slots_of(self.mmu)
        under = await slots.srcu.read_lock()
        if await emulator_of(self.mmu).has_memory(vcpu, gpa_to_gfn(gpa)):
            await super().emulated_store(vcpu, gpa, value, size)
        else:
            await mark(MmioExit(vcpu.number, gpa, write=True))
        await slots.srcu.read_unlock(under)


class Emulator(emulator.Emulator):
    """Loads are emulated too, if there is no memory to load from."""

    async def load(self, vcpu: VcpuState, gva: Gva, kind: AccessKind) -> int | GuestFault:
        """Load the word at ``gva``."""
        gpa = await self.translate(vcpu, gva, kind)
        if isinstance(gpa, GuestFault):
            return gpa
        slots = slots_of(self.mmu)
        under = await slots.srcu.read_lock()
        value = UNCLAIMED
        if await self.has_memory(vcpu, gpa_to_gfn(gpa)):
            value = await self.mmu.memory.word(gpa)
        else:
            await mark(MmioExit(vcpu.number, gpa, write=False))
        await slots.srcu.read_unlock(under)
        return value

    async def has_memory(self, vcpu: VcpuState, gfn: Gfn) -> bool:
        """Whether there is a page to do an access of ``vcpu`` in. In a section of ``srcu``."""
        del vcpu
        slot = (await slots_of(self.mmu).memslots).find(gfn)
        return slot is not None and not slot.invalid


class Guest(guest.Guest):
    """Reads what may have no memory."""

    async def _read(self, gva: Gva, kind: AccessKind) -> int | GuestFault:
        found = await self.vm.loop.translate(self.vcpu, gva, kind)
        if isinstance(found, GuestFault):
            return found
        if found is not None:
            return await self._read_through(found, gva, kind)
        return await emulator_of(self.vm.mmu).load(self.vcpu, gva, kind)


# --- host threads: writers ---


class Host(notifier.Host):
    """Userspace that gives the guest memory and takes it away."""

    async def create_slot(self, first: int, frames: int = 1) -> None:
        """KVM_SET_USER_MEMORY_REGION. Errors: the slot overlaps another one."""
        slots = self._slots
        async with slots.slots_lock:
            there = (await slots.memslots).slots
            made = Slot(first, frames)
            await self.install_slots(_added(there, made), MemslotReady(made))
        await mark("slot created")

    async def delete_slot(self, first: int) -> None:
        """KVM_SET_USER_MEMORY_REGION of no size. Errors: no slot begins there."""
        slots = self._slots
        async with slots.slots_lock:
            there = (await slots.memslots).slots
            slot = _begins(there, first)
            await self.take_away(slot)
            await self.install_slots(_without(there, slot), MemslotFreed(slot))
        await mark("slot deleted")

    async def move_slot(self, first: int, to: int) -> None:
        """Let a slot begin at another frame. Errors: no such slot, no room."""
        slots = self._slots
        async with slots.slots_lock:
            there = (await slots.memslots).slots
            slot = _begins(there, first)
            moved = Slot(to, slot.frames)
            left = _added(_without(there, slot), moved)
            await self.take_away(slot)
            await self.install_slots(left, MemslotFreed(slot), MemslotReady(moved))
        await mark("slot moved")

    async def take_away(self, slot: Slot) -> None:
        """Nothing of a slot is mapped after this, nor will be. Holds: slots_lock."""
        await self.invalidate_slot(slot)
        await self.flush_slot(slot)

    async def invalidate_slot(self, slot: Slot) -> None:
        """Let no fault map the slot that begins from here on, and none be left that began before.

        Source: KVM, kvm_invalidate_memslot.
        """
        there = (await self._slots.memslots).slots
        await self.install_slots(_added(_without(there, slot), slot._replace(invalid=True)))

    async def flush_slot(self, slot: Slot) -> None:
        """Zap what maps the slot, and the shadows of tables in it.

        Source: KVM, kvm_arch_flush_shadow_memslot.
        """
        zap = self.vm.mmu.zap
        async with self.vm.mmu.lock:
            for gfn in range(slot.first, slot.first + slot.frames):
                await zap.zap_leaves(None, Gfn(gfn))
                await zap.zap_gfn(None, Gfn(gfn))

    async def install_slots(self, slots: tuple[Slot, ...], *events: Event) -> None:
        """Publish slots, and wait until nobody has those before. Holds: slots_lock.

        Source: KVM, kvm_swap_active_memslots.
        """
        memslots = self._slots.memslots
        generation = (await memslots).generation
        await self.publish(Slots(generation, slots, updating=True))
        await self._slots.srcu.synchronize()
        await self.bump_generation(events)

    async def publish(self, slots: Slots) -> None:
        """Make new slots the ones that are found. Holds: slots_lock."""
        await self._slots.memslots.set(slots, event=MemslotsPublished(slots.slots))

    async def bump_generation(self, events: tuple[Event, ...]) -> None:
        """Nobody has the slots before: what was made of them is stale. Holds: slots_lock."""
        slots = await self._slots.memslots
        now = slots._replace(generation=slots.generation + 1, updating=False)
        await self._slots.memslots.set(now, event=events)

    # --- the notifier ---

    async def reclaim(self, gfn: int) -> bool:
        """Take one page, in a section: its slot may be on the way out."""
        under = await self._slots.srcu.read_lock()
        taken = await super().reclaim(gfn)
        await self._slots.srcu.read_unlock(under)
        return taken

    async def invalidate_start(self, first: int, frames: int) -> None:
        """Unmap a range, in a section."""
        under = await self._slots.srcu.read_lock()
        await self.begin_invalidation(first, frames)
        await self._slots.srcu.read_unlock(under)

    async def begin_invalidation(self, first: int, frames: int) -> None:
        """Count, and zap what has a slot. Holds: a section of srcu."""
        await super().invalidate_start(first, frames)

    async def zap_range(self, first: int, frames: int) -> None:
        """Unmap those frames of a range that have a slot. Holds: mmu_lock, a section of srcu."""
        slots = await self._slots.memslots
        for gfn in range(first, first + frames):
            if slots.find(gfn) is not None:
                await super().zap_range(gfn, 1)

    @property
    def _slots(self) -> Memslots:
        return slots_of(self.vm.mmu)


def slots_of(mmu: ShadowMmu) -> Memslots:
    """The memslots of a machine with this feature."""
    assert isinstance(mmu.slots, Memslots)
    return mmu.slots


def emulator_of(mmu: ShadowMmu) -> Emulator:
    """The emulator of a machine with this feature."""
    assert isinstance(mmu.emulator, Emulator)
    return mmu.emulator


def _format(slots: Slots) -> str:
    there = ", ".join(map(str, slots.slots)) or "none"
    return f"generation {slots.generation}{', updating' if slots.updating else ''}: {there}"


def _begins(slots: tuple[Slot, ...], first: int) -> Slot:
    """The slot that begins at a frame. Errors: there is none, or it is too large to be zapped."""
    found = next((slot for slot in slots if slot.first == first), None)
    if found is None:
        raise UsageError(
            f"no memory slot begins at gfn {first:#x}: there are {', '.join(map(str, slots))}; "
            "give the machine memslots=((first, frames), ...)"
        )
    if found.frames > SLOT_FRAMES_MAX:
        raise UsageError(
            f"the memory slot {found} is too large to go: {SLOT_FRAMES_MAX} frames are the most; "
            "give the machine memslots=((first, frames), ...)"
        )
    return found


def _added(slots: tuple[Slot, ...], made: Slot) -> tuple[Slot, ...]:
    """With one more slot. Errors: it overlaps another one."""
    for slot in slots:
        if slot.first < made.first + made.frames and made.first < slot.first + slot.frames:
            raise UsageError(f"the memory slot {made} overlaps {slot}: choose other frames")
    return tuple(sorted((*slots, made)))


def _without(slots: tuple[Slot, ...], gone: Slot) -> tuple[Slot, ...]:
    return tuple([slot for slot in slots if slot != gone])


SPEC = Feature(
    title="memory slots come and go; who uses one is in an SRCU section",
    source="KVM bc6678a33d9b (2.6.34), ee3d1570b586 (3.17)",
    since="2.6.34",
    eras=("3.6", "5.15", "2026"),
    needs=("notifier",),
    locks={
        "slots_lock": "held while the slots are changed",
        "mmu_lock": "held while what maps a slot is zapped",
    },
)
