"""The slots change so often that their generation comes round in the markers.

A marker of generation 0 lies in the shadow. Userspace makes three slots elsewhere, then one where
the marker says that there is nothing. That is generation 4, which a marker tells as 0. So before
anybody can see the new number, all pages are zapped, and the markers with them.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DEVICE = REGION
LOW = (0, 0x1000)
"""The slot that is there: it has the page tables."""
FRAME = 0x1000
ELSEWHERE = (0x2000, 0x2001, 0x2002)

SCENARIO = Scenario(
    title="the generation of the slots comes round",
    source="KVM 152482580a1b (2019)",
    machine=MachineConfig(
        spaces={"A": {DEVICE: page(FRAME)}}, features=("mmio-sptes",), vcpus=1, memslots=(LOW,)
    ),
    goals=("MMIO generations come round", "stale MMIO spte met", "MMIO spte used", "slot created"),
    bugs=("mmio-generation-wrap",),
)


@SCENARIO.setup(0)
async def leave_a_marker(cpu: Guest) -> None:
    await cpu.load(DEVICE)


@SCENARIO.vcpu(0)
async def reads(cpu: Guest) -> None:
    await cpu.load(DEVICE)


@SCENARIO.host("userspace")
async def makes_memory(host: Host) -> None:
    for frame in (*ELSEWHERE, FRAME):
        await host.create_slot(frame)
