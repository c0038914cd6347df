"""The host runs out of memory while two vCPUs fault.

What a fault may need for the reverse map and the parent links is allocated before it takes any
lock. When that fails, KVM_RUN returns -ENOMEM and nothing of the shadow has changed, so userspace
can run the vCPU again once there is memory. Here the host lets some allocations fail, at any
moment: while a root is loaded, before a fault, before a store is emulated. Both vCPUs get there in
the end.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA, SAME_FRAME = REGION, REGION + 0x1000

SCENARIO = Scenario(
    title="allocations fail while vCPUs fault",
    source="KVM 714b93da1a, e2dec939db (2007)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), SAME_FRAME: page(2)}}, features=("memory-caches",)
    ),
    parameters=(Parameter("failing", 2, "allocations that fail", minimum=1, maximum=8),),
    goals=("out of memory", "frame mapped twice"),
)


@SCENARIO.vcpu(0)
async def maps_a_frame_twice(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.load(SAME_FRAME)
    await cpu.mark("frame mapped twice")


@SCENARIO.vcpu(1)
async def edits_the_table(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=3)


@SCENARIO.host("shortage")
async def runs_short(host: Host) -> None:
    await host.run_short(int(host.params["failing"]))
