"""The generation comes round, and markers of the time before are zapped only afterwards.

    vCPU 0                                 host thread (changes the slots for the 4th time)
    has a marker of generation 0
                                           publishes the slots with g; waits for readers
                                           generation := 4, which a marker tells as 0
    accesses g: the marker is current
    exits to userspace, though g has memory
                                           zaps all pages

The generation of a marker has so few bits here that four changes take it round; in KVM it had 19.
"""

from __future__ import annotations

from vmm.bugs import Bug
from vmm.engine.events import Event
from vmm.features import memslots, mmio_sptes
from vmm.features.mmio_sptes import GENERATIONS


class Host(mmio_sptes.Host):
    """Tells what depends on the generation too late."""

    async def bump_generation(self, events: tuple[Event, ...]) -> None:
        """The fix zaps the markers before the number that they have can be found."""
        await memslots.Host.bump_generation(self, events)
        slots = await self._slots.memslots
        if slots.generation % GENERATIONS == 0:
            await self.zap_markers()


SPEC = Bug(
    title="markers are zapped for a generation that has come round after it can be seen",
    year=2019,
    fix="152482580a1b",
    source="KVM 152482580a1b (5.1); the zap itself: a8eca9dcc656 (3.11, a hash recalled)",
    caught_by=("mmio/memory-there",),
    needs=("mmio-sptes",),
)
