"""The host zaps one table, then all shadow pages at once, while both vCPUs use them.

The pages are prepared one by one: taken out of the tables above them, emptied, hidden from
lookups. A processor that read an upper entry before may still walk into them, so none may go back
to the pool yet. Then one flush makes every vCPU leave the guest, and all of them are freed. If they
were freed before the flush, the walk would go on in a page that is somebody else's by now.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
MIDDLE_TABLE = 0x12
"""The level-2 table of space A: tables lie from frame 0x10 up, the root first."""

SCENARIO = Scenario(
    title="all shadow pages are zapped with one flush",
    source="KVM 7775834a23 (2010)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}, features=("two-phase-zap",)),
    parameters=(Parameter("loads", 12, "loads of each vCPU", minimum=1, maximum=64),),
    goals=("several pages zapped with one flush", "root in use zapped", "invalid root freed"),
    bugs=("xen-ept-deferred-free",),
    small={"loads": 1},
)


@SCENARIO.setup(0)
async def warm(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu()
async def walks(cpu: Guest) -> None:
    for _ in range(int(cpu.params["loads"])):
        await cpu.load(DATA)


@SCENARIO.host("alias")
async def zaps(host: Host) -> None:
    await host.zap_table(MIDDLE_TABLE)
    await host.zap_all()
