"""One vCPU runs with paging off and writes to the page tables of the other one.

While a guest brings up its second processor, that one is in real mode: its addresses are physical.
KVM shadows even that, by tables that map memory as it is. vCPU 0 pages already, and its leaf table
is shadowed. vCPU 1 stores to an entry of that table. It must trap as it would if it came through
page tables.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
LEAF_TABLE = 0x13
"""Of space A: tables lie from frame 0x10 up, the root first."""
FREE_ENTRY = (LEAF_TABLE << 12) + 0x80

SCENARIO = Scenario(
    title="a vCPU without paging writes to a shadowed page table",
    source="KVM e833240f3c (2007)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "R": {}}, space_modes={"R": "real"}, starts=("A", "R")
    ),
    goals=("store emulated",),
    bugs=("real-mode-writes-tables",),
)


@SCENARIO.setup(1)
async def run_without_paging(cpu: Guest) -> None:
    await cpu.load(0)


@SCENARIO.vcpu(0)
async def pages(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes_the_table(cpu: Guest) -> None:
    await cpu.store(FREE_ENTRY, 0)
    await cpu.store(FREE_ENTRY, 0)
