"""A table that is written natively becomes a table of a higher level in another address space.

In space A the table maps pages; it is unsync, so vCPU 0 writes it without a trap. In space B an
entry of level 3 leads to the very same frame: there it is a table of level 2. When vCPU 1 touches
an address below it, KVM shadows the frame a second time. Tables of higher levels are always in
sync, so first the old shadow is brought up to date and the table is protected again. From then on
the stores of vCPU 0 are emulated, and both shadows follow.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
FAR = REGION + (1 << 30)
TABLE = 0x13
"""The leaf table of space A: tables lie from frame 0x10 up, four to a space."""
BELOW = FAR & -(1 << 30)
"""Where the first entry of that table leads to in space B: to the frame of DATA, as a table."""
PAGE = 5 << 12 | 0x67

SCENARIO = Scenario(
    title="an unsync table is shadowed a second time, at a higher level",
    source="KVM 4731d4c7a0 (2008)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "B": {DATA: page(3)}},
        starts=("A", "B"),
        features=("unsync",),
    ),
    goals=("table synced", "store emulated", "read through both levels"),
    modes=("4-level", "5-level"),  # entries of eight bytes, and as many levels
)


@SCENARIO.setup(0)
async def leave_the_table_out_of_sync(cpu: Guest) -> None:
    await cpu.store(DATA, PAGE)
    await cpu.store_pte(DATA, frame=2)


@SCENARIO.setup(1)
async def lead_to_the_table(cpu: Guest) -> None:
    await cpu.store_pte(FAR, frame=TABLE, level=3, space="B")


@SCENARIO.vcpu(0)
async def writes_the_table(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4)
    await cpu.invlpg(DATA)
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def reads_below_it(cpu: Guest) -> None:
    if isinstance(await cpu.load(BELOW), int):
        await cpu.mark("read through both levels")
