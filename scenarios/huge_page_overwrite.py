"""A mapping is moved to another frame, and the old frame becomes a page table.

vCPU 1 has the frame writable in its TLB. vCPU 0 makes the gpte name another frame; the store is
emulated, and the spte follows. Then vCPU 0 goes to space B, one of whose tables lies in the old
frame: KVM shadows it, finds that no spte maps the frame, and flushes nothing. That is only safe if
the spte was not moved without a flush. The guest itself does none.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
TABLE_B = 0x17
"""The leaf table of space B: tables lie from frame 0x10 up, four to a space."""
TABLE_WINDOW = REGION + 0x3000

SCENARIO = Scenario(
    title="a frame that is mapped no longer becomes a page table",
    source="KVM 3be2264be3c0 (2010)",
    machine=MachineConfig(
        spaces={"A": {TABLE_WINDOW: page(TABLE_B)}, "B": {DATA: page(2)}}, starts=("A", "A")
    ),
    goals=("store emulated",),
    bugs=("huge-page-overwrite",),
)


@SCENARIO.setup(0)
async def map_the_gpte(cpu: Guest) -> None:
    await cpu.store_pte(TABLE_WINDOW, frame=TABLE_B, space="A")


@SCENARIO.setup(1)
async def use_it_as_data(cpu: Guest) -> None:
    await cpu.store(TABLE_WINDOW, (2 << 12) | 0x67)


@SCENARIO.vcpu(0)
async def moves_the_mapping(cpu: Guest) -> None:
    await cpu.store_pte(TABLE_WINDOW, frame=5, space="A")
    await cpu.mov_cr3("B")
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes_the_table(cpu: Guest) -> None:
    await cpu.store(TABLE_WINDOW, (4 << 12) | 0x67)
