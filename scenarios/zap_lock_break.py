"""The host takes two pages from a guest, and lets others have mmu_lock between the two.

Both pages are in the guest's TLB. The first is zapped; before the lock is released its flush must
be over, for another host thread, which takes the same page for itself, finds no spte any more, so
it flushes nothing and frees the page at once. And when the first thread has the lock again, it has
to go on with the second page exactly: a page that the loop passes over is freed while it is mapped.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

FIRST, SECOND = REGION, REGION + 0x1000
FRAME = 2

SCENARIO = Scenario(
    title="mmu_lock is released while a range of pages is taken",
    source="KVM a835429cda91 (2021), 3a0f64de479c (2021): there for a direct MMU",
    machine=MachineConfig(
        spaces={"A": {FIRST: page(FRAME), SECOND: page(FRAME + 1)}},
        vcpus=1,
        features=("lock-break",),
    ),
    parameters=(Parameter("rounds", 4, "how often the guest uses both", minimum=1, maximum=64),),
    goals=("lock released within a range", "page given back", "host page changed under a fault"),
    bugs=("yield-pending-flush", "iterator-skip"),
    small={"rounds": 1},
)


@SCENARIO.setup(0)
async def use_both(cpu: Guest) -> None:
    await cpu.load(FIRST)
    await cpu.load(SECOND)


@SCENARIO.vcpu(0)
async def goes_on_using_them(cpu: Guest) -> None:
    for _ in range(int(cpu.params["rounds"])):
        await cpu.load(FIRST)
        await cpu.load(SECOND)


@SCENARIO.host("unmap")
async def unmaps(host: Host) -> None:
    await host.unmap(FRAME, 2)


@SCENARIO.host("swap")
async def swaps(host: Host) -> None:
    await host.reclaim(FRAME)
