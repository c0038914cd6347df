"""A page becomes a page table right after the host has looked whether it is in use.

vCPU 1 has the page writable in its TLB. To see whether the page is in use, the host takes its
mappings away; the next access will bring them back. vCPU 0, in another space, then uses the page as
a table: KVM shadows it and would take W from whatever maps it, but there is nothing left. That is
only safe if the flush that belongs to the host's look is over by then, and it is, since it comes
before mmu_lock is released.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000
TABLE_B = 0x17
"""The leaf table of space B: tables lie from frame 0x10 up, four to a space."""
TABLE_WINDOW = REGION + 0x3000

SCENARIO = Scenario(
    title="the host ages a page that becomes a page table",
    source="KVM 565f3be21746 (2012)",
    machine=MachineConfig(
        spaces={"A": {TABLE_WINDOW: page(TABLE_B)}, "B": {DATA: page(2)}},
        starts=("B", "A"),
        features=("notifier",),
    ),
    parameters=(Parameter("stores", 6, "stores of vCPU 1 to the table", minimum=1, maximum=64),),
    goals=("young page found", "mapped table write-protected", "store emulated"),
    bugs=("notifier-late-flush",),
    small={"stores": 1},
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


@SCENARIO.host("age")
async def ages(host: Host) -> None:
    await host.age(TABLE_B)
