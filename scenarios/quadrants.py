"""Two vCPUs of a 32-bit guest rewrite its tables, of each of which the shadow has several parts.

A 32-bit table has 1024 entries of four bytes, a shadow table 512 of eight. So KVM keeps several
shadow pages of one table, its quadrants: four of a page directory, two of a page table. A store to
the table must reach the right one; and a directory entry, which maps 4M, has two shadow entries,
both of which must go. KVM of January 2007 cleared a wrong one. vCPU 0 takes the table away that
maps LOW and HIGH, which lie in both halves of its 4M; vCPU 1 remaps HIGH, whose entry is in the
second quadrant of that table, and uses both pages.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

LOW = REGION
HIGH = REGION + 0x200000

SCENARIO = Scenario(
    title="32-bit tables are shadowed by quadrants, and a pde has two sptes",
    source="KVM cea0f0e7ea, ac1b714e78, 6b8d0f9b18 (2007); fce0657ff9 (2007)",
    machine=MachineConfig(spaces={"A": {LOW: page(2), HIGH: page(3)}}, shadow_pages=24),
    goals=("store emulated", "low gone", "high gone"),
    modes=("32-bit",),  # no other table is larger than its shadow
)


@SCENARIO.setup(0)
async def touch_both(cpu: Guest) -> None:
    await cpu.load(LOW)
    await cpu.load(HIGH)


@SCENARIO.vcpu(0)
async def unmaps_both(cpu: Guest) -> None:
    await cpu.store_pte(LOW, frame=None, level=2)
    await cpu.mov_cr3("A")
    if not isinstance(await cpu.load(LOW), int):
        await cpu.mark("low gone")
    if not isinstance(await cpu.load(HIGH), int):
        await cpu.mark("high gone")


@SCENARIO.vcpu(1)
async def remaps_one(cpu: Guest) -> None:
    await cpu.store_pte(HIGH, frame=5)
    await cpu.load(LOW)
    await cpu.load(HIGH)
