"""vCPU 1 stores to a page at the very moment at which it becomes a page table.

The page is the leaf table of space B, which vCPU 1, in space A, has mapped and uses as data. vCPU
0 runs in space B and faults, so KVM shadows the table. It must take W from every spte that maps
the table, and then flush: a TLB can be filled again from an spte as long as that has W. If the
flush comes first, vCPU 1 comes back, stores, and holds a writable translation that nobody will
flush.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Parameter, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000
TABLE_B = 0x17
"""The leaf table of space B: tables lie from frame 0x10 up, four to a space."""
TABLE_WINDOW = REGION + 0x3000

SCENARIO = Scenario(
    title="a store to a page while it is write-protected",
    source="KVM 88a97f0b2f (2007)",
    machine=MachineConfig(
        spaces={"A": {TABLE_WINDOW: page(TABLE_B)}, "B": {DATA: page(2)}}, starts=("B", "A")
    ),
    parameters=(Parameter("stores", 12, "stores of vCPU 1 to the table", minimum=1, maximum=64),),
    goals=("mapped table write-protected", "store emulated"),
    bugs=("flush-before-protect", "remote-flush-missing"),
    small={"stores": 3},
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
        await cpu.store(TABLE_WINDOW, (2 << 12) | 0x67)
