"""A page becomes a page table after the dirty log took W from it, and before it flushed.

vCPU 1, with paging off, has the page writable in its TLB. Userspace reads the dirty log: KVM takes
W from the page's spte, releases mmu_lock, and only then flushes. vCPU 0 uses the page as a table in
between and finds W clear, but not the bit that says that W may come back; so it flushes, whatever
others owe.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000
LEAF_TABLE = 0x13
"""Of space A: tables lie from frame 0x10 up, the root first."""
FREE_ENTRY = (LEAF_TABLE << 12) + 0x80

SCENARIO = Scenario(
    title="a dirty page becomes a page table before the dirty log has flushed",
    source="KVM 198c74f43f0f (2014)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "R": {}},
        space_modes={"R": "real"},
        starts=("A", "R"),
        features=("unlocked-dirty-flush",),
    ),
    parameters=(
        Parameter("stores", 24, "stores of vCPU 1 to the page", minimum=1, maximum=64),
        Parameter("readings", 6, "readings of the dirty log", minimum=1, maximum=64),
    ),
    goals=("dirty page write-protected", "mapped table write-protected", "store emulated"),
    bugs=("flush-test-writable-bit",),
    small={"stores": 1, "readings": 1},
)


@SCENARIO.setup(1)
async def use_it_as_data(cpu: Guest) -> None:
    await cpu.store(FREE_ENTRY, 0)


@SCENARIO.setup(0)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(UNMAPPED)


@SCENARIO.vcpu(0)
async def makes_it_a_table(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes_it(cpu: Guest) -> None:
    for _ in range(int(cpu.params["stores"])):
        await cpu.store(FREE_ENTRY, 0)


@SCENARIO.host("migrate")
async def reads_the_log(host: Host) -> None:
    for _ in range(int(host.params["readings"])):
        await host.get_dirty_log()
