"""A vCPU reads the shadow without the lock, and its store buffer still holds that it does.

vCPU 0 says that it reads the shadow's tables, then reads them. The host unlinks one of them, then
asks who is reading. If the vCPU's store may wait in its buffer while its loads are done, the host
sees nobody and frees the table under it. A full barrier behind the store rules that out.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA, OTHER = REGION, REGION + 0x1000
LEAF_TABLE = 0x13
"""Of space A: tables lie from frame 0x10 up, the root first."""

SCENARIO = Scenario(
    title="a table is zapped while a vCPU walks, which only its store buffer knows",
    source="KVM c142786c6291 (2012)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), OTHER: page(3)}},
        vcpus=1,
        features=("lockless-walk",),
        memory_model="tso",
    ),
    goals=("zapped",),
    bugs=("reading-without-barrier",),
)


@SCENARIO.setup(0)
async def build_the_tables(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def faults(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.host("alias")
async def zaps(host: Host) -> None:
    await host.zap_table(LEAF_TABLE)
    await host.mark("zapped")
