"""A vCPU looks into the shadow in a read section while the host zaps what it reads.

Before KVM takes mmu_lock for a fault it reads the shadow, to see whether the fault has been fixed
meanwhile. It says so by an RCU read section, and to nobody else: flushes pass it by. So who zaps a
page first flushes the processors, then waits until the read sections are over that may have found
the page before it was unlinked.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000
MIDDLE_TABLE = 0x12
"""The level-2 table of space A: tables lie from frame 0x10 up, the root first."""

SCENARIO = Scenario(
    title="the shadow is zapped while a vCPU is in a read section",
    source="KVM c2a2ac2b56 (2011)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), OTHER: page(3)}}, features=("rcu-free",), vcpus=1
    ),
    parameters=(Parameter("loads", 8, "loads of the vCPU", minimum=1, maximum=64),),
    goals=("zapped", "freeing waits for a reader"),
    bugs=("rcu-free-early",),
    small={"loads": 1},
    modes=("4-level", "5-level"),  # below them level 2 is a root, which is never freed
)


@SCENARIO.setup(0)
async def build_the_tables(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def faults(cpu: Guest) -> None:
    for n in range(int(cpu.params["loads"])):
        await cpu.load(DATA if n % 2 == 0 else OTHER)


@SCENARIO.host("alias")
async def zaps(host: Host) -> None:
    await host.zap_table(MIDDLE_TABLE)
    await host.mark("zapped")
