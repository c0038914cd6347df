"""A 32-bit guest puts another page table in the place of one.

An entry of a 32-bit page directory maps 4M; the shadow, whose entries are twice as large and map
2M, has two for it. vCPU 0 replaces the entry, which traps, and both of them must go. vCPU 1 loads
through it: by the old table or by the new one, but by the new one for sure once it has seen that
the entry is replaced.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
OTHER_TABLE = 0x17
"""The leaf table of space B: tables lie from frame 0x10 up, four to a space."""

SCENARIO = Scenario(
    title="an entry of a 32-bit page directory is replaced",
    source="KVM ac1b714e78, 6b8d0f9b18 (2007)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}, "B": {DATA: page(3)}}, mode="32-bit"),
    modes=("32-bit",),
    goals=("store emulated",),
    bugs=("pde-of-32-bits",),
)


@SCENARIO.setup(0, 1)
async def shadow_the_tables(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def replaces_the_table(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=OTHER_TABLE, level=2)
    await cpu.invlpg(DATA)


@SCENARIO.vcpu(1)
async def loads(cpu: Guest) -> None:
    await cpu.load(DATA)
