"""The host looks which pages are in use while another of its threads has the shadow zapped.

To see whether the guest uses a page, the host asks KVM: is there an spte that maps it? KVM says so,
and takes the spte away, so that the next access brings it back. But sptes go for other reasons as
well: here a whole table is zapped. The page was in use all the same. So whenever an spte goes, the
page is told, and whoever asks later looks at the page too.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
FRAME = 2
LEAF_TABLE = 0x13
"""The level-1 table of space A: tables lie from frame 0x10 up, the root first."""

SCENARIO = Scenario(
    title="a page is aged while its spte goes for another reason",
    source="KVM daa3db693ce9 (2010)",
    machine=MachineConfig(spaces={"A": {DATA: page(FRAME)}}, features=("page-flags",), vcpus=1),
    parameters=(Parameter("loads", 4, "loads of the page", minimum=1, maximum=64),),
    goals=("young page found", "old page found", "table zapped"),
    bugs=("accessed-bit-lost",),
    small={"loads": 1},
)


@SCENARIO.setup(0)
async def use_it(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def uses(cpu: Guest) -> None:
    for _ in range(int(cpu.params["loads"])):
        await cpu.load(DATA)


@SCENARIO.host("zap")
async def zaps(host: Host) -> None:
    await host.zap_table(LEAF_TABLE)
    await host.mark("table zapped")


@SCENARIO.host("kswapd")
async def ages(host: Host) -> None:
    await host.age(FRAME)
    await host.age(FRAME)
