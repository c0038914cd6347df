"""Userspace moves a memory slot while one vCPU uses it where it was, and where it will be.

A guest may ask for its memory to lie elsewhere, as firmware does with the holes for devices. KVM
has no step for that: the slot goes from its old frames, as if it were deleted, and comes at the new
ones. What lies at the new frames was a device until then, and a marker may say so; what lies at
the old ones is a device from then on.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

OLD, NEW = REGION, REGION + 0x1000
LOW = (0, 0x1000)
"""The slot that stays: it has the page tables."""
FROM, TO = 0x1000, 0x2000
"""The frame of the slot that moves, before and after."""

SCENARIO = Scenario(
    title="a memory slot is moved",
    source="KVM bc6678a33d9b (2010); 2012, an invalid step when the base of a slot changes",
    machine=MachineConfig(
        spaces={"A": {OLD: page(FROM), NEW: page(TO)}},
        features=("mmio-sptes",),
        vcpus=1,
        memslots=(LOW, (FROM, 1)),
    ),
    goals=("slot moved", "invalid slot met", "stale MMIO spte met", "page given back"),
)


@SCENARIO.setup(0)
async def use_both(cpu: Guest) -> None:
    await cpu.store(OLD, 1)
    await cpu.load(NEW)


@SCENARIO.vcpu(0)
async def uses_both(cpu: Guest) -> None:
    await cpu.store(OLD, 2)
    await cpu.load(NEW)


@SCENARIO.host("userspace")
async def moves(host: Host) -> None:
    await host.move_slot(FROM, TO)
    await host.unmap(FROM)
