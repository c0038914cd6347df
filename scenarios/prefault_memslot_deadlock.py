"""Userspace pre-faults a page on a vCPU's thread, and deletes its memory slot on another one.

Who deletes a slot marks it invalid, then waits for all who may still use it: they are in SRCU
sections. A fault that meets an invalid slot is to be tried again, and soon the slot will be gone.
But a pre-fault is in a section all the while. If it tries again there, it waits for the deletion,
which waits for it. So it gives up, and userspace calls again.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000
LOW = (0, 0x1000)
"""The slot that stays: it has the page tables."""
GOES = 0x1000
"""The frame of the slot that goes."""

SCENARIO = Scenario(
    title="a page is pre-faulted while its memory slot is deleted",
    source="KVM 5b0d0d85422d (2025)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(GOES), OTHER: page(3)}},
        features=("pre-fault",),
        vcpus=1,
        memslots=(LOW, (GOES, 1)),
    ),
    parameters=(
        Parameter("changes", 4, "times that the slot goes and comes", minimum=1, maximum=64),
        Parameter("calls", 8, "pre-faults", minimum=1, maximum=256),
    ),
    goals=("slot deleted", "pre-fault given up", "slot created"),
    bugs=("prefault-memslot-deadlock",),
    small={"changes": 1, "calls": 1},
)


@SCENARIO.setup(0)
async def build_the_tables(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def pre_faults(cpu: Guest) -> None:
    for _ in range(int(cpu.params["calls"])):
        await cpu.pre_fault(DATA)


@SCENARIO.host("userspace")
async def deletes(host: Host) -> None:
    for _ in range(int(host.params["changes"])):
        await host.delete_slot(GOES)
        await host.create_slot(GOES)
