"""The host zaps every shadow page while a vCPU faults and another one walks.

A host thread empties the shadow (a memory alias was changed). At the same time vCPU 0 takes a fault
and builds shadow pages, and the processor of vCPU 1 may be in the middle of a walk: it has read the
entry of an upper table and is about to read the next one. The zap clears the entries above a page,
then the page itself, then waits until every vCPU has left the guest; only then does the page go back
to the pool. Without the wait the walker reads a page that is no longer a page table.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION

SCENARIO = Scenario(
    title="the host zaps all shadow pages against a fault and a hardware walk",
    source="KVM e0fa826f96 (2007), 40907d5768 (2007), 3bb65a22a4 (2007)",
    machine=MachineConfig(spaces={"A": {DATA: page(2), DATA + 0x1000: page(3)}}),
    goals=("root in use zapped",),
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
    await host.zap_all()
