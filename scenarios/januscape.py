"""A guest turns a large page into a page table while another vCPU faults in it.

The pde of an area maps 2M at once; KVM shadows that by a direct page of small sptes. vCPU 0 makes
the pde name a page table instead, and that table lies in the first frame of the large page, so that
the frame says nothing about which of the two a shadow page stands for. The store is emulated: guest
memory has changed already when vCPU 1 faults in the area, and the direct page is still linked.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
AREA = DATA + (1 << 21)
"""The 2M behind the region."""
LARGE_PAGE = 1 << 21
"""First byte of the large page, and of the table."""
LARGE_BITS, TABLE_BITS, PAGE_BITS = 0xE7, 0x27, 0x67
"""Present, writable, user, accessed; dirty; page size."""
OTHER_FRAME = 5

SCENARIO = Scenario(
    title="a large page becomes a page table in the same frame while a vCPU faults in it",
    source="KVM 81ccda30b4e8 (2026)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}),
    modes=("pae", "4-level", "5-level"),  # 2M pages
    goals=("store emulated", "wrong child dropped"),
    bugs=("januscape", "wrong-gfn-child"),
)


@SCENARIO.setup(0)
async def use_the_large_page(cpu: Guest) -> None:
    await cpu.store(cpu.window(DATA, level=2) + 8, LARGE_PAGE | LARGE_BITS)
    await cpu.store(AREA + 8, (OTHER_FRAME << 12) | PAGE_BITS)


@SCENARIO.setup(1)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def makes_it_a_table(cpu: Guest) -> None:
    await cpu.store(cpu.window(DATA, level=2) + 8, LARGE_PAGE | TABLE_BITS)


@SCENARIO.vcpu(1)
async def faults_in_it(cpu: Guest) -> None:
    await cpu.load(AREA + 0x1000)
