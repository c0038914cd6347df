"""The host takes a page away while one vCPU faults on it and the other one uses it.

The host does not ask KVM whether a page is in use; it only says what it takes. For a range it says
so twice: before it begins and after it is done, and in between the page may still be resolved. A
fault on the page goes the other way: it resolves the page first, without a lock, and maps it later.
So the fault notes a sequence number before it resolves, and under mmu_lock it asks two questions:
is an invalidation under way, and was one finished since? If so, it starts over. A second host
thread swaps the same page out (``-p threads=2``).
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000
FRAME = 2

SCENARIO = Scenario(
    title="the host takes a page that one vCPU faults on and another one uses",
    source="KVM e930bffe95 (2008)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(FRAME), OTHER: page(3)}}, features=("notifier",)
    ),
    parameters=(Parameter("threads", 1, "host threads that take it", minimum=1, maximum=2),),
    goals=("page given back", "host page changed under a fault"),
    bugs=("notifier-retry", "notifier-count-ignored"),
)


@SCENARIO.setup(0)
async def build_the_tables(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def reads(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes(cpu: Guest) -> None:
    await cpu.store(DATA, 3)


@SCENARIO.host("unmap")
async def unmaps(host: Host) -> None:
    await host.unmap(FRAME)


@SCENARIO.host("swap")
async def swaps(host: Host) -> None:
    if host.params["threads"] == 2:
        await host.reclaim(FRAME)
