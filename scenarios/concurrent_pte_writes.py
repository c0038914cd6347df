"""Two vCPUs edit different entries of one shadowed page table.

A busy SMP guest: one CPU unmaps a page, another one maps a page, both in the same table. Every
store traps, is emulated, and updates its own shadow entry under mmu_lock. Then each CPU uses what
it wrote, after the INVLPG that x86 asks of it. The reverse map must follow both, and nobody may
end up with the other's mapping.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

FIRST = REGION
SECOND = REGION + 0x1000

SCENARIO = Scenario(
    title="two vCPUs write different gptes of one shadowed table",
    source="KVM 9b7a032567 (2007), 0028425f64 (2007)",
    machine=MachineConfig(spaces={"A": {FIRST: page(2), SECOND: page(3)}}),
    goals=("store emulated", "unmapped page faults"),
    bugs=("emulated-write-order",),
)


@SCENARIO.setup(0)
async def touch_both(cpu: Guest) -> None:
    await cpu.load(FIRST)
    await cpu.load(SECOND)


@SCENARIO.vcpu(0)
async def unmaps(cpu: Guest) -> None:
    await cpu.store_pte(FIRST, frame=None)
    await cpu.invlpg(FIRST)
    if not isinstance(await cpu.load(FIRST), int):
        await cpu.mark("unmapped page faults")


@SCENARIO.vcpu(1)
async def maps(cpu: Guest) -> None:
    await cpu.store_pte(FIRST, frame=5)
    await cpu.store_pte(SECOND, frame=4)
    await cpu.invlpg(SECOND)
    await cpu.store(SECOND, 7)
