"""A fault shares mmu_lock while shadow pages are running out.

vCPU 0 runs without paging and writes to the leaf table of vCPU 1's address space. The table is
shadowed, so the store faults, and may be let through at once: mark the shadow as unsync, give W
back. For that mmu_lock is shared, and nothing is built. Fewer shadow pages are free than a fault
may need to build; but to recycle some is for those who have the lock alone.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
DATA_ENTRY = 0x13000
"""Where the entry of DATA lies: space A has its tables in frames 0x10 to 0x13."""

SCENARIO = Scenario(
    title="mmu_lock is shared while few shadow pages are free",
    source="KVM 47b0c2e4c220 (2022)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "R": {}},
        space_modes={"R": "real"},
        starts=("R", "A"),
        features=("rwlock",),
        shadow_pages=12,
    ),
    modes=("4-level",),  # how many pages are in use
    goals=("fixed under a shared lock", "used again"),
    bugs=("recycle-shared-lock",),
)


@SCENARIO.setup(0)
async def map_the_table(cpu: Guest) -> None:
    await cpu.load(DATA_ENTRY)


@SCENARIO.setup(1)
async def use_it(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def remaps(cpu: Guest) -> None:
    await cpu.store(DATA_ENTRY, (4 << 12) | 0x67)


@SCENARIO.vcpu(1)
async def uses_it_again(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.mark("used again")
