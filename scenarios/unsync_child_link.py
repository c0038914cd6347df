"""An entry that was not present makes a table reachable that has been written natively.

The page table below DATA is unsync: vCPU 0 points an entry to another frame, and tells nobody yet.
Then it gives a second address, FAR, the same tables: an entry of level 3 that was not present now
leads to the table of level 2 above. x86 asks for no invalidation here, since nobody can hold a
translation through an entry that was not present. So whoever gets through FAR must see the new
frame. KVM finds the shadow of the level-2 table in its cache, with the old page below. It must sync
that page before it links it, not before its own next entry: the other vCPU runs on the same root.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Parameter, Scenario, page

DATA = REGION
FAR = REGION + (1 << 30)
UPPER = 0x12
"""The level-2 table: tables lie from frame 0x10 up, four to a space."""

SCENARIO = Scenario(
    title="a cached shadow with an unsync page below it is linked under a new entry",
    source="KVM 65855ed8b034 (2021)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}, features=("unsync",)),
    parameters=(Parameter("loads", 16, "loads of vCPU 1", minimum=1, maximum=64),),
    goals=("table synced", "far page read"),
    bugs=("unsync-child-link",),
    small={"loads": 1},
    modes=("4-level", "5-level"),  # entries above a directory that can be written
)


@SCENARIO.setup(0)
async def leave_the_table_out_of_sync(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store_pte(FAR, frame=None, level=3)
    await cpu.store_pte(DATA, frame=2)


@SCENARIO.vcpu(0)
async def links_the_table_again(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4)
    await cpu.store_pte(FAR, frame=UPPER, level=3)
    await cpu.load(FAR)


@SCENARIO.vcpu(1)
async def looks_there(cpu: Guest) -> None:
    for _ in range(int(cpu.params["loads"])):
        if isinstance(await cpu.load(FAR), int):
            await cpu.mark("far page read")
