"""A page becomes a page table while another CPU holds it writable in its TLB.

vCPU 1 has stored to a page, so its TLB holds a writable translation of it. The guest then uses that
page as a table: vCPU 0, in a second address space whose leaf table it is, touches DATA. KVM shadows
the table and takes W away from every spte that maps it. But a TLB does not look at sptes: until
vCPU 1 flushes, it writes the table without a trap, and the shadow does not follow.

So KVM sets a flush request on every vCPU, interrupts those that run, and waits until each has left
the guest. Only then is the table protected.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Parameter, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000
TABLE_B = 0x17
"""The leaf table of space B: tables lie from frame 0x10 up, four to a space."""
TABLE_WINDOW = REGION + 0x3000
"""Where space A maps that table a second time, at its entry for DATA."""

SCENARIO = Scenario(
    title="a new guest table is write-protected while another TLB holds it writable",
    source="KVM d9e368d612 (2007)",
    machine=MachineConfig(
        spaces={
            "A": {TABLE_WINDOW: page(TABLE_B)},
            "B": {DATA: page(2)},
        },
        starts=("B", "A"),
    ),
    parameters=(Parameter("stores", 6, "stores of vCPU 1 to the table", minimum=1, maximum=64),),
    goals=("mapped table write-protected", "store emulated"),
    bugs=("remote-flush-missing",),
    small={"stores": 2},
)


@SCENARIO.setup(1)
async def use_it_as_data(cpu: Guest) -> None:
    await cpu.store(TABLE_WINDOW, (2 << 12) | 0x67)


@SCENARIO.setup(0)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(UNMAPPED)


@SCENARIO.vcpu(0)
async def makes_it_a_table(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes_the_table(cpu: Guest) -> None:
    for _ in range(int(cpu.params["stores"])):
        await cpu.store(TABLE_WINDOW, (4 << 12) | 0x67)
