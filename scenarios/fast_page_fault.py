"""A page becomes a page table while its write protection is being lifted without the lock.

vCPU 0 runs with paging off and uses a frame as data. Userspace reads the dirty log, which takes W
from the frame's spte; the next store faults, and as W was taken for the log alone, KVM gives it
back by a compare-and-swap, without mmu_lock. Meanwhile vCPU 1 uses the frame as a page table, so
KVM protects it for good, under mmu_lock, from a vCPU that does not ask for that lock.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000
LEAF_TABLE = 0x13
"""Of space A: tables lie from frame 0x10 up, the root first."""
FREE_ENTRY = (LEAF_TABLE << 12) + 0x80

SCENARIO = Scenario(
    title="write protection is lifted without the lock while the page becomes a table",
    source="KVM c7ba5b48cc (2012)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "R": {}},
        space_modes={"R": "real"},
        starts=("R", "A"),
        features=("fast-page-fault",),
    ),
    parameters=(Parameter("stores", 6, "stores of vCPU 0 to the frame", minimum=1, maximum=64),),
    goals=("fast page fault", "fast page fault lost", "mapped table write-protected"),
    bugs=("volatile-spte-store", "fast-fault-write-protected"),
    small={"stores": 1},
)


@SCENARIO.setup(0)
async def use_it_as_data(cpu: Guest) -> None:
    await cpu.store(FREE_ENTRY, 0)


@SCENARIO.setup(1)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(UNMAPPED)


@SCENARIO.vcpu(0)
async def writes_it(cpu: Guest) -> None:
    for _ in range(int(cpu.params["stores"])):
        await cpu.store(FREE_ENTRY, 0)


@SCENARIO.vcpu(1)
async def makes_it_a_table(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.host("migrate")
async def reads_the_log(host: Host) -> None:
    await host.get_dirty_log()
