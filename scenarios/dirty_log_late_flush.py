"""A page becomes a page table while the dirty log is being read.

vCPU 1 has the page writable in its TLB. Userspace reads the dirty log: the page is in it, so KVM
takes W from its sptes, to see the next write. vCPU 0, in another space, then uses the page as a
table: KVM shadows it, finds W clear already, and flushes nothing. That is only safe if the flush of
the dirty log is over by then, and it is, since it comes before mmu_lock is released.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000
TABLE_B = 0x17
"""The leaf table of space B: tables lie from frame 0x10 up, four to a space."""
TABLE_WINDOW = REGION + 0x3000

SCENARIO = Scenario(
    title="the dirty log is read while a dirty page becomes a page table",
    source="KVM 6dbf79e7164e (2012)",
    machine=MachineConfig(
        spaces={"A": {TABLE_WINDOW: page(TABLE_B)}, "B": {DATA: page(2)}},
        starts=("B", "A"),
        features=("dirty-log",),
    ),
    parameters=(Parameter("stores", 6, "stores of vCPU 1 to the table", minimum=1, maximum=64),),
    goals=("dirty page write-protected", "mapped table write-protected", "store emulated"),
    bugs=("dirty-log-late-flush",),
    small={"stores": 1},
)


@SCENARIO.setup(1)
async def use_it_as_data(cpu: Guest) -> None:
    await cpu.store(TABLE_WINDOW, (2 << 12) | 0x67)


@SCENARIO.setup(0)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(UNMAPPED)


@SCENARIO.vcpu(0)
async def makes_it_a_table(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes_the_table(cpu: Guest) -> None:
    for _ in range(int(cpu.params["stores"])):
        await cpu.store(TABLE_WINDOW, (4 << 12) | 0x67)


@SCENARIO.host("migrate")
async def reads_the_log(host: Host) -> None:
    await host.get_dirty_log()
