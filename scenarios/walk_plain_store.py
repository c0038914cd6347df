"""One vCPU walks through a page-table entry for the first time while the other one clears it.

The entry for DATA has never been used: A is clear. vCPU 0 runs in space B and loads DATA. It
faults, and KVM walks B's tables and finds that it must set A, as the processor would have done.
Between its read and its update, vCPU 1, which has B's table mapped, takes the page away: it stores
0 to the entry. Nothing traps, since the table is not shadowed yet. An update that writes back
what the walk read, with A added, undoes that store: the page is mapped again, for good. So the
update is a compare-and-exchange, and if it fails the walk starts over.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000

SCENARIO = Scenario(
    title="KVM sets Accessed in an entry that the guest is changing",
    source="KVM b3e4e63fd9 (2008)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(3)}, "B": {DATA: page(2, fresh=True)}}, starts=("B", "A")
    ),
    goals=("page found", "page gone"),
    bugs=("walk-plain-store",),
)


@SCENARIO.setup(0)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(UNMAPPED)


@SCENARIO.setup(1)
async def map_the_table(cpu: Guest) -> None:
    await cpu.load(cpu.window(DATA, "B"))


@SCENARIO.vcpu(0)
async def loads(cpu: Guest) -> None:
    found = await cpu.load(DATA)
    await cpu.mark("page found" if isinstance(found, int) else "page gone")


@SCENARIO.vcpu(1)
async def unmaps(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=None, space="B")
