"""KVM owes a flush when a page becomes a page table.

vCPU 1 has a page writable in its TLB. vCPU 0 unmaps it, without a trap, and loads cr3, with which
KVM syncs the table and drops the spte, but does not flush vCPU 1. Then vCPU 0 uses the page as a
page table of another address space. KVM shadows it, finds no spte to take W from, and would believe
that nobody can write it. It must ask whether a flush is owed.
"""

from __future__ import annotations

from vmm.scenario import PAGE_BYTES, REGION, Guest, MachineConfig, Parameter, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x90000
TABLE_B = 0x17
"""The leaf table of space B: tables lie from frame 0x10 up, four to a space."""
TABLE_PAGE = REGION + 0x80000
"""Where space A maps that frame as a page of data."""
NEIGHBOURS = {REGION + n * PAGE_BYTES: page(0x80 + n) for n in range(64)}

SCENARIO = Scenario(
    title="a dropped spte is still in a TLB when its page becomes a table",
    source="KVM f81602958c11 (2021)",
    machine=MachineConfig(
        spaces={"A": {TABLE_PAGE: page(TABLE_B), **NEIGHBOURS}, "B": {DATA: page(2)}},
        starts=("A", "A"),
        features=("flush-debt",),
    ),
    parameters=(
        Parameter("stores", 12, "stores of vCPU 1", minimum=1, maximum=64),
        Parameter("neighbours", 16, "pages that the sync looks at first", minimum=0, maximum=64),
    ),
    goals=("flush owed", "table synced"),
    bugs=("tlbs-dirty-write-protect",),
    small={"stores": 1, "neighbours": 0},
)


@SCENARIO.setup(0)
async def leave_the_table_out_of_sync(cpu: Guest) -> None:
    await cpu.mov_cr3("B")
    await cpu.load(UNMAPPED)
    await cpu.mov_cr3("A")
    await cpu.store_pte(TABLE_PAGE, frame=TABLE_B)


@SCENARIO.setup(1)
async def write_the_page(cpu: Guest) -> None:
    await cpu.store(TABLE_PAGE, (2 << 12) | 0x67)
    for n in range(int(cpu.params["neighbours"])):
        await cpu.load(REGION + n * PAGE_BYTES)


@SCENARIO.vcpu(0)
async def makes_it_a_table(cpu: Guest) -> None:
    await cpu.store_pte(TABLE_PAGE, frame=None)
    await cpu.mov_cr3("A")
    await cpu.load(UNMAPPED)
    await cpu.mov_cr3("B")
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def goes_on(cpu: Guest) -> None:
    for _ in range(int(cpu.params["stores"])):
        await cpu.store(TABLE_PAGE, (4 << 12) | 0x67)
