"""The generation goes up with the new slots, while the old ones are still in use.

    vCPU 0 (accesses frame g)              host thread (makes a slot with g)
    finds no slot for g
                                           publishes the slots with g: generation 1
    reads the generation: 1
    marker: g, generation 1
                                           waits for vCPU 0; done
    accesses g: the marker is current
    exits to userspace, though g has memory

The fix lets it go up once more after the grace period, and trusts no marker in between.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.engine.events import Event
from vmm.features import memslots
from vmm.features.memslots import Slots


class Host(memslots.Host):
    """Counts once, and at once."""

    async def publish(self, slots: Slots) -> None:
        """The slots are new, and so is their number."""
        await super().publish(slots._replace(generation=slots.generation + 1, updating=False))

    async def bump_generation(self, events: tuple[Event, ...]) -> None:
        """The fix counts here, when nobody has the old slots any more."""
        slots = await self._slots.memslots
        await self._slots.memslots.set(slots, event=events)


SPEC = Bug(
    title="a marker made of the old slots is stamped with the generation of the new ones",
    year=2014,
    fix="ee3d1570b586",
    source="KVM ee3d1570b586 (3.17); Documentation/virt/kvm/x86/mmu.rst, fast invalidation",
    caught_by=("mmio/memory-there",),
    needs=("mmio-sptes",),
    seen="userspace is told of accesses to devices that it does not have; the guest is stopped",
)
