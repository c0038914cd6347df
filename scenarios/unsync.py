"""Two vCPUs write one page table without a trap, and each sees its change once it invalidates.

The table is shadowed, so the first store to it faults. KVM does not emulate it: it marks the shadow
as unsync and maps the table writable. From then on the shadow may be old, as a TLB may be, and KVM
has to bring it up to date where the guest would drop its TLB: INVLPG for one page, a load of cr3
for all. vCPU 0 changes an entry and says INVLPG; vCPU 1 changes another one and loads cr3. What
each of them uses afterwards must be what the table says.

A load of cr3 looks without the lock whether anything is unsync. So the mark must be there before
the table is writable. And the table maps itself: when it is synced, the entry that maps it must not
become writable again.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

FIRST = REGION
SECOND = REGION + 0x1000

SCENARIO = Scenario(
    title="two vCPUs write a page table natively and invalidate, by INVLPG and by MOV CR3",
    source="KVM 4731d4c7a0 (2008)",
    machine=MachineConfig(spaces={"A": {FIRST: page(2), SECOND: page(3)}}, features=("unsync",)),
    goals=("table left out of sync", "table synced"),
    bugs=("unsync-self-map", "unsync-mark-order"),
)


@SCENARIO.setup(0)
async def use_both(cpu: Guest) -> None:
    await cpu.load(FIRST)
    await cpu.load(cpu.window(FIRST))


@SCENARIO.setup(1)
async def use_the_other(cpu: Guest) -> None:
    await cpu.load(SECOND)


@SCENARIO.vcpu(0)
async def invalidates_a_page(cpu: Guest) -> None:
    await cpu.store_pte(FIRST, frame=4)
    await cpu.invlpg(FIRST)
    await cpu.load(FIRST)


@SCENARIO.vcpu(1)
async def loads_cr3(cpu: Guest) -> None:
    await cpu.store_pte(SECOND, frame=5)
    await cpu.mov_cr3("A")
    await cpu.load(SECOND)
