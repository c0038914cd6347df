"""A vCPU goes in while the host asks it to flush, and neither sees the other's store.

The processors here have store buffers. vCPU 0 publishes IN_GUEST and then looks at its requests;
the host makes a request and then looks at the mode. If a store may still wait in its buffer while
the load behind it is done, both may read the old value: the vCPU sees no request, the host sees a
vCPU that is outside and needs no interrupt. A full barrier between store and load, on both sides,
rules that out. The host's request is a locked update, which is a barrier; the vCPU's is not.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
FRAME = 2

SCENARIO = Scenario(
    title="the mode of a vCPU and a request for it pass each other in store buffers",
    source="KVM 6b7e2d099148 (2011); vcpu-requests.rst",
    machine=MachineConfig(
        spaces={"A": {DATA: page(FRAME)}},
        vcpus=1,
        features=("host-paging", "vcpu-mode"),
        memory_model="tso",
    ),
    goals=("page given back", "entry cancelled"),
    bugs=("request-mode-dekker",),
)


@SCENARIO.setup(0)
async def map_it(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def uses(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.host("reclaim")
async def takes_it(host: Host) -> None:
    await host.reclaim(FRAME)
