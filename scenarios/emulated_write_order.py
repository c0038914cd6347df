"""Two vCPUs rewrite the same page-table entry, and both writes trap.

The table is shadowed, so it is write-protected: each store faults and is emulated. The emulator
first changes the guest's memory; then it takes mmu_lock and brings the shadow up to date. Nothing
makes the two locks come in the order of the two stores. If each vCPU updates the shadow from the
value that it wrote itself, the shadow may end with the first value while memory holds the second.

The fix reads memory again once the lock is held: whoever comes last sees the last value.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION

SCENARIO = Scenario(
    title="two vCPUs emulate a write to one gpte at the same time",
    source="KVM 0e0fee5c539b (2018)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}),
    goals=("store emulated",),
    bugs=("emulated-write-order",),
)


@SCENARIO.setup(0)
async def shadow_the_table(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def first_writer(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4)


@SCENARIO.vcpu(1)
async def second_writer(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=5)
