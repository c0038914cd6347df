"""The host zaps two tables, one after the other, while a vCPU reads the shadow without the lock.

The first zap finds the vCPU outside the guest: the request to flush will do, nobody need wait. By
the time of the second one the vCPU reads the shadow. Its request is set still, since it serves
requests only before it enters the guest; yet this time the zap must wait for it.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000
LEAF_TABLE, MIDDLE_TABLE = 0x13, 0x12
"""Tables of space A, levels 1 and 2: they lie from frame 0x10 up, the root first."""

SCENARIO = Scenario(
    title="two tables are zapped in turn while a vCPU reads the shadow without the lock",
    source="KVM 6b7e2d0991 (2011), c142786c6291 (2012)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), OTHER: page(3)}}, vcpus=1, features=("lockless-walk",)
    ),
    goals=("zapped",),
    bugs=("request-already-set",),
    modes=("4-level", "5-level"),  # where the tables lie
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
    await host.zap_table(MIDDLE_TABLE)
    await host.mark("zapped")
