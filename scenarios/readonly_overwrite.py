"""A mapping is made read-only, and the frame becomes a page table.

vCPU 1 has the frame writable in its TLB. vCPU 0 makes the gpte read-only; the store is emulated,
and the spte follows. Then vCPU 0 goes to space B, one of whose tables lies in that frame: KVM
shadows it, finds that the spte of the frame has no W, and flushes nothing. That is only safe if the
spte has not lost its W without a flush. The guest itself does none.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
TABLE_B = 0x17
"""The leaf table of space B: tables lie from frame 0x10 up, four to a space."""
TABLE_WINDOW = REGION + 0x3000

SCENARIO = Scenario(
    title="a frame that is read-only by now becomes a page table",
    source="KVM 79539cec0c (2008): flush only when something is lost",
    machine=MachineConfig(
        spaces={"A": {TABLE_WINDOW: page(TABLE_B)}, "B": {DATA: page(2)}}, starts=("A", "A")
    ),
    goals=("store emulated",),
    bugs=("readonly-overwrite",),
)


@SCENARIO.setup(0)
async def map_the_gpte(cpu: Guest) -> None:
    await cpu.store_pte(TABLE_WINDOW, frame=TABLE_B, space="A")


@SCENARIO.setup(1)
async def use_it_as_data(cpu: Guest) -> None:
    await cpu.store(TABLE_WINDOW, (2 << 12) | 0x67)


@SCENARIO.vcpu(0)
async def takes_w(cpu: Guest) -> None:
    await cpu.store_pte(TABLE_WINDOW, frame=TABLE_B, writable=False, space="A")
    await cpu.mov_cr3("B")
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes_the_table(cpu: Guest) -> None:
    await cpu.store(TABLE_WINDOW, (4 << 12) | 0x67)
