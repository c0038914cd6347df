"""Pages of a device get memory while a vCPU accesses them.

An access to a frame without memory cannot be mapped: it is emulated and left to userspace. KVM puts
a marker into the shadow, so that the next access finds at once that there is nothing. Now userspace
puts memory there. Nobody looks for the markers; each has the generation of the slots, and those of
older generations no longer count. But an access that is under way may have looked at the old slots
and read the new generation. So the number goes up only when nobody has the old slots any more.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DEVICE, ANOTHER = REGION, REGION + 0x1000
LOW = (0, 0x1000)
"""The slot that is there: it has the page tables."""
FRAME = 0x1000

SCENARIO = Scenario(
    title="pages of a device get memory",
    source="KVM ee3d1570b586, 56f17dd3fbc4 (2014)",
    machine=MachineConfig(
        spaces={"A": {DEVICE: page(FRAME), ANOTHER: page(FRAME + 1)}},
        features=("mmio-sptes",),
        vcpus=1,
        memslots=(LOW,),
    ),
    parameters=(Parameter("loads", 4, "loads of each page", minimum=1, maximum=64),),
    goals=("MMIO spte used", "stale MMIO spte met", "slot created"),
    bugs=("mmio-generation-early", "stale-mmio-cache"),
    small={"loads": 2},
)


@SCENARIO.setup(0)
async def leave_a_marker(cpu: Guest) -> None:
    await cpu.load(DEVICE)


@SCENARIO.vcpu(0)
async def reads(cpu: Guest) -> None:
    for _ in range(int(cpu.params["loads"])):
        await cpu.load(ANOTHER)
        await cpu.load(DEVICE)


@SCENARIO.host("userspace")
async def makes_memory(host: Host) -> None:
    await host.create_slot(FRAME, 2)
