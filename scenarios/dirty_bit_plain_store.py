"""Two vCPUs log frames at the same time, one of them without mmu_lock.

A page fault logs the frame that it maps writable under mmu_lock. A store to a page table is
emulated, and logs the frame of the table before it takes the lock. Both frames have their bits in
one word of the bitmap. So only a locked instruction keeps both.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000

SCENARIO = Scenario(
    title="a fault and an emulated store log their frames at once",
    source="KVM 60c34612b707 (2012)",
    machine=MachineConfig(spaces={"A": {DATA: page(2), OTHER: page(3)}}, features=("dirty-log",)),
    goals=("store emulated", "log read"),
    bugs=("dirty-bit-plain-store",),
)


@SCENARIO.setup(1)
async def shadow_the_table(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def writes_a_page(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


@SCENARIO.vcpu(1)
async def writes_a_table(cpu: Guest) -> None:
    await cpu.store_pte(OTHER, frame=4)


@SCENARIO.host("migrate")
async def reads_the_log(host: Host) -> None:
    await host.get_dirty_log()
    await host.mark("log read")
