"""A vCPU looks into the shadow without the lock while the host zaps what it reads.

Both vCPUs fault on the same page. Before KVM takes mmu_lock it reads the shadow, to see whether the
other vCPU has fixed the fault meanwhile. Nothing keeps the pages in place but this: a zapped page
goes back to the pool after a flush, and a flush waits for every vCPU that is not outside the guest.
So the reader says that it is reading, and keeps interrupts off until it is done.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000
MIDDLE_TABLE = 0x12
"""The level-2 table of space A: tables lie from frame 0x10 up, the root first."""

SCENARIO = Scenario(
    title="the shadow is zapped while a vCPU reads it without the lock",
    source="KVM c142786c6291 (2012)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), OTHER: page(3)}}, features=("lockless-walk",)
    ),
    parameters=(Parameter("rounds", 12, "loads of each vCPU, and zaps", minimum=1, maximum=64),),
    goals=("zapped", "spurious fault"),
    bugs=("lockless-walk-free",),
    small={"rounds": 1},
    modes=("4-level", "5-level"),  # below them level 2 is a root, which is never freed
)


@SCENARIO.setup(0)
async def build_the_tables(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu()
async def faults(cpu: Guest) -> None:
    for n in range(int(cpu.params["rounds"])):
        await cpu.load(DATA if n % 2 == 0 else OTHER)


@SCENARIO.host("alias")
async def zaps(host: Host) -> None:
    for _ in range(int(host.params["rounds"])):
        await host.zap_table(MIDDLE_TABLE)
    await host.mark("zapped")
