"""The host zaps shadow pages while a vCPU faults and another one walks.

A host thread zaps the shadow of one table, or (``-p what=all``) all of it. At the same time vCPU
0 takes a fault and builds shadow pages, and the processor of vCPU 1 may be in the middle of a
walk: it has read the entry of an upper table and is about to read the next one. The zap clears
the entries above a page, then the page itself, then waits until every vCPU has left the guest;
only then does the page go back to the pool. Without the wait the walker reads a page that is no
longer a page table.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
MIDDLE_TABLE = 0x12
"""The level-2 table of space A: tables lie from frame 0x10 up, the root first."""

SCENARIO = Scenario(
    title="the host zaps shadow pages against a fault and a hardware walk",
    source="KVM e0fa826f96 (2007), 40907d5768 (2007), 3bb65a22a4 (2007)",
    machine=MachineConfig(spaces={"A": {DATA: page(2), DATA + 0x1000: page(3)}}),
    parameters=(Parameter("what", "table", "what the host zaps", choices=("table", "all")),),
    goals=("zapped",),
    bugs=("remote-flush-missing",),
)


@SCENARIO.setup(0)
async def warm(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def faults(cpu: Guest) -> None:
    await cpu.load(DATA + 0x1000)


@SCENARIO.vcpu(1)
async def walks(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.host("alias")
async def zaps(host: Host) -> None:
    if host.params["what"] == "all":
        await host.zap_all()
    else:
        await host.zap_table(MIDDLE_TABLE)
    await host.mark("zapped")
