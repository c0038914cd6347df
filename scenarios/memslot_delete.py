"""Userspace takes a memory slot away, and its memory, while one vCPU uses it and another faults.

A vCPU that faults looks up the slot of a frame, then the page behind it, and maps that page under
mmu_lock; all this in one SRCU section, which says: somebody may still have the slots as they were.
Userspace deletes the slot in two steps. First the slot is published as invalid, so that no fault
that begins now maps it, and the sections that began before are waited for. Then what is mapped is
zapped, and only then the slot goes. Its memory goes last; the guest meets a device there, if
anything. In between a fault that meets the invalid slot is tried again.
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
    title="a memory slot is deleted while two vCPUs use it",
    source="KVM bc6678a33d9b (2010)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(GOES), OTHER: page(3)}},
        features=("memslots",),
        memslots=(LOW, (GOES, 1)),
    ),
    parameters=(Parameter("stores", 1, "stores of vCPU 1", minimum=0, maximum=4),),
    goals=("slot deleted", "invalid slot met", "page given back"),
    bugs=("memslot-one-step-delete",),
    small={"stores": 0},
)


@SCENARIO.setup(0)
async def build_the_tables(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.setup(1)
async def use_it(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def faults(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes(cpu: Guest) -> None:
    for _ in range(int(cpu.params["stores"])):
        await cpu.store(DATA, 3)


@SCENARIO.host("userspace")
async def deletes(host: Host) -> None:
    await host.delete_slot(GOES)
    await host.unmap(GOES)
