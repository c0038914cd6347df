"""KVM itself stores to a page of the guest that the host takes away.

For hypercalls KVM stores to the same page of the guest again and again, so it keeps where that page
lies in the host. Nothing in the shadow says so: the notifier has to be told. It marks what is kept
as not valid, then takes its lock and counts. In between KVM may find out anew where the page lies,
which is still the old place. So it asks whether any invalidation has begun, not whether one was
counted.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
FRAME = 2

SCENARIO = Scenario(
    title="the host takes a page that KVM stores to",
    source="KVM 58cd407ca4c6 (2022)",
    machine=MachineConfig(spaces={"A": {DATA: page(FRAME)}}, features=("gfn-pfn-cache",), vcpus=1),
    parameters=(Parameter("events", 4, "hypercalls", minimum=1, maximum=64),),
    goals=("cached page resolved again", "cached page invalidated", "page given back"),
    bugs=("gfn-pfn-cache-refresh",),
    small={"events": 2},
)


@SCENARIO.setup(0)
async def keep_the_page(cpu: Guest) -> None:
    await cpu.send_event(FRAME, 1)


@SCENARIO.vcpu(0)
async def sends_events(cpu: Guest) -> None:
    for number in range(int(cpu.params["events"])):
        await cpu.send_event(FRAME, number)


@SCENARIO.host("unmap")
async def unmaps(host: Host) -> None:
    await host.unmap(FRAME)
