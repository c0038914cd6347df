"""A page table is written by emulation while the other vCPU shadows the first table of all.

vCPU 0 runs without paging, and its stores are emulated. As long as no table is shadowed, such a
store has no shadow to bring up to date; so KVM looks at a count before it asks for the lock. vCPU 1
pages, and its first fault shadows the very table. The processors have store buffers: if the look at
the count may come before the store can be seen, vCPU 0 sees no shadow and vCPU 1 no store.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
LEAF_TABLE = 0x13
"""Of space A: tables lie from frame 0x10 up, the root first."""
ENTRY = LEAF_TABLE << 12
NEW = 4 << 12 | 0x67

SCENARIO = Scenario(
    title="an emulated store to a page table passes the first fault that shadows it",
    source="KVM 226d9b8f1688 (2024)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "R": {}},
        space_modes={"R": "real"},
        starts=("R", "A"),
        features=("shadow-count",),
        memory_model="tso",
    ),
    modes=("4-level",),
    goals=("no shadow to follow", "fault retried"),
    bugs=("shadow-count-storeload",),
)


@SCENARIO.vcpu(0)
async def writes_the_table(cpu: Guest) -> None:
    await cpu.store(ENTRY, NEW)


@SCENARIO.vcpu(1)
async def pages(cpu: Guest) -> None:
    await cpu.load(DATA)
