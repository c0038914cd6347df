"""Two entries of different rights lead to the same directory.

The guest kernel has the same directory twice in its tables, once writable and once read-only, and
the directory itself has a writable and a read-only entry. What vCPU 1 may write depends on which
way it takes; each way needs a shadow of the directory of its own.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, GuestFault, MachineConfig, Scenario, page

DATA = REGION
WRITABLE, READ_ONLY = DATA + (1 << 30), DATA + (2 << 30)
"""The directory of the region through two further entries of the level above."""
PART = 1 << 21
"""The next entry of the directory: read-only, to the same page table."""
DIRECTORY, PAGE_TABLE = 0x12, 0x13
"""Frames of the tables of space A, levels 2 and 1."""
READ_ONLY_BITS, WRITABLE_BITS = 0x25, 0x27
"""Present, user, accessed; and writable."""

SCENARIO = Scenario(
    title="one directory is reached through a writable and a read-only entry",
    source="KVM b1bd5cba3306 (2021)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}),
    modes=("4-level", "5-level"),  # entries above a directory that have rights
    goals=("stored", "refused"),
    bugs=("inherited-permissions",),
)


@SCENARIO.setup(0)
async def map_it_twice(cpu: Guest) -> None:
    entry = cpu.window(DATA, level=3)
    await cpu.store(entry + 8, (DIRECTORY << 12) | WRITABLE_BITS)
    await cpu.store(entry + 16, (DIRECTORY << 12) | READ_ONLY_BITS)
    await cpu.store(cpu.window(DATA, level=2) + 8, (PAGE_TABLE << 12) | READ_ONLY_BITS)


@SCENARIO.setup(1)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def stores(cpu: Guest) -> None:
    await cpu.load(WRITABLE + PART)
    await cpu.store(WRITABLE, 1)
    await cpu.mark("stored")


@SCENARIO.vcpu(1)
async def tries_to_store(cpu: Guest) -> None:
    await cpu.load(READ_ONLY)
    if isinstance(await cpu.store(READ_ONLY, 2), GuestFault):
        await cpu.mark("refused")
