"""One vCPU faults through a page-table entry while the other one rewrites it.

vCPU 0 runs in space B and touches DATA for the first time. It faults, and KVM walks B's tables
without holding any lock: it reads "DATA is frame 2". Before KVM takes mmu_lock, vCPU 1, which runs
in space A and has B's table mapped, stores a new entry: "DATA is frame 4". Nothing traps: the table
is not shadowed yet, so it is still writable.

Now vCPU 0 gets the lock, makes the shadow of the table and write-protects it. If it trusts what it
read, it maps frame 2, and nothing will ever correct that: from here on the table is protected and
counts as in sync. The same happens if the shadow page was made by another vCPU in between. The fix
reads every entry again under the lock, once its table is protected, and lets the guest fault once
more if one has changed.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000
OLD_FRAME, NEW_FRAME = 2, 4

SCENARIO = Scenario(
    title="one vCPU faults through an entry that the other one rewrites",
    source="KVM f7d9c7b7b902 (2008)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(3)}, "B": {DATA: page(OLD_FRAME)}}, starts=("B", "A")
    ),
    goals=("fault retried", "store emulated"),
    bugs=("stale-gpte", "stray-parent-link"),
)


@SCENARIO.setup(0)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(UNMAPPED)


@SCENARIO.setup(1)
async def map_the_table(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store_pte(DATA, frame=OLD_FRAME, space="B")


@SCENARIO.vcpu(0)
async def reader(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writer(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store_pte(DATA, frame=NEW_FRAME, space="B")
