"""The host takes a range of pages of which only the first one is mapped.

KVM zaps the range frame by frame and flushes the TLBs before it lets go of mmu_lock, if anything
was mapped. That the last frame of the range was not must not make it forget the first one.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
FRAME = 2

SCENARIO = Scenario(
    title="the host takes a range of pages of which only the first is mapped",
    source="KVM 873dd122172f (2022)",
    machine=MachineConfig(spaces={"A": {DATA: page(FRAME)}}, vcpus=1, features=("notifier",)),
    goals=("page given back", "host page changed under a fault"),
    bugs=("zap-flush-accumulate",),
)


@SCENARIO.setup(0)
async def map_it(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


@SCENARIO.vcpu(0)
async def uses(cpu: Guest) -> None:
    await cpu.store(DATA, 2)


@SCENARIO.host("unmap")
async def takes_both(host: Host) -> None:
    await host.unmap(FRAME, 2)
