"""Two vCPUs without paging write to two page tables of a third one, at the same time.

Both tables are shadowed, so both first stores fault. KVM need not emulate them: it marks the
shadows as unsync and makes the tables writable. Nothing is built or freed for that, so the vCPUs
share mmu_lock and go on side by side. But both tables hang below the same upper table, and both
vCPUs mark it to say where unsync pages are to be found. The marks are read, changed and stored: so
there is a lock of their own. Later vCPU 2 loads cr3 and must find both.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Parameter, Scenario, page

DATA = REGION
FAR = REGION + (1 << 21)
"""Below another leaf table than DATA."""
DATA_ENTRY, FAR_ENTRY = 0x13000, 0x18000
"""Where the entries of the two lie: tables are in frames 0x10 to 0x13, and the one of FAR in 0x18.
"""
PRESENT = 0x67

SCENARIO = Scenario(
    title="two vCPUs leave tables out of sync while they share mmu_lock",
    source="KVM 531810caa9, ce25681d59ff (2021)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), FAR: page(3)}, "R": {}},
        space_modes={"R": "real"},
        starts=("R", "R", "A"),
        vcpus=3,
        features=("rwlock",),
        shadow_pages=20,
    ),
    parameters=(Parameter("loads", 1, "whether vCPU 2 loads cr3 and uses both", choices=(0, 1)),),
    modes=("4-level",),  # where the tables lie
    goals=("table left out of sync", "fixed under a shared lock", "both written"),
    bugs=("unsync-counter-race",),
    small={"loads": 0},
)


@SCENARIO.setup(0)
async def map_one(cpu: Guest) -> None:
    await cpu.load(DATA_ENTRY)


@SCENARIO.setup(1)
async def map_the_other(cpu: Guest) -> None:
    await cpu.load(FAR_ENTRY)


@SCENARIO.setup(2)
async def use_both(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.load(FAR)


@SCENARIO.vcpu(0)
async def remaps_data(cpu: Guest) -> None:
    await cpu.store(DATA_ENTRY, (4 << 12) | PRESENT)


@SCENARIO.vcpu(1)
async def remaps_far(cpu: Guest) -> None:
    await cpu.store(FAR_ENTRY, (5 << 12) | PRESENT)
    await cpu.mark("both written")


@SCENARIO.vcpu(2)
async def loads_cr3(cpu: Guest) -> None:
    if cpu.params["loads"]:
        await cpu.mov_cr3("A")
        await cpu.load(DATA)
        await cpu.load(FAR)
