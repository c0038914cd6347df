"""Two host threads take pages away at the same time while a vCPU faults on one of them.

A fault waits for invalidations of its own page only. KVM keeps one range for all that are open: it
grows with each that begins. If the newest one took the place of the others, a fault could map a
page that an older one is about to free.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA, OTHER = REGION, REGION + 0x1000
FRAME, OTHERS_FRAME = 2, 3

SCENARIO = Scenario(
    title="two ranges are invalidated at once",
    source="KVM 4a42d848db95 (2021)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(FRAME), OTHER: page(OTHERS_FRAME)}},
        features=("notifier-ranges",),
        vcpus=1,
    ),
    goals=("page given back", "host page changed under a fault", "fault beside an invalidation"),
    bugs=("notifier-range-overwritten",),
)


@SCENARIO.setup(0)
async def build_the_tables(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def faults(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.host("unmap")
async def unmaps(host: Host) -> None:
    await host.unmap(FRAME)


@SCENARIO.host("another")
async def unmaps_another(host: Host) -> None:
    await host.unmap(OTHERS_FRAME)
