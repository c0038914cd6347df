"""One host thread unmaps a page while another one takes its memory slot away.

To unmap a page KVM is told twice: before, and after. Both times it looks whether a memory slot has
the page, and only if so it takes the lock and counts up, or down. vCPUs that fault wait for the
count to be 0. If the slot goes in between, the count goes up and never down, and no fault is ever
done again. So who changes the slots waits until no invalidation is under way.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000
LOW = (0, 0x1000)
"""The slot that stays: it has the page tables."""
GOES = 0x1000
"""The frame of the slot that goes."""

SCENARIO = Scenario(
    title="a page is unmapped while its memory slot is deleted",
    source="KVM 52ac8b358b0c (2021)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), OTHER: page(3)}},
        features=("notifier-by-slot",),
        vcpus=1,
        memslots=(LOW, (GOES, 1)),
    ),
    goals=(
        "slot deleted",
        "page given back",
        "range without a slot invalidated",
        "host page changed under a fault",
    ),
    bugs=("notifier-unpaired",),
)


@SCENARIO.setup(0)
async def build_the_tables(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def faults(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.host("unmap")
async def unmaps(host: Host) -> None:
    await host.unmap(GOES)


@SCENARIO.host("userspace")
async def deletes(host: Host) -> None:
    await host.delete_slot(GOES)
