"""One vCPU faults through a page-table entry that the other one is rewriting.

vCPU 0 touches DATA for the first time. It faults, and KVM walks the guest's tables without holding
any lock: it reads "DATA is frame 2". Before KVM takes mmu_lock, vCPU 1 stores a new entry, "DATA is
frame 4". Nobody stops it: the table is not shadowed yet, so it is still writable. Then vCPU 1 itself
touches DATA; its fault makes the shadow of the table and write-protects it.

Now vCPU 0 gets the lock and finds the shadow page in place. If it trusts what it read, it maps
frame 2, and nothing will ever correct that: the table is protected and counts as in sync. The fix
reads every entry again under the lock, after protection, and lets the guest fault once more if one
has changed.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000
OLD_FRAME, NEW_FRAME = 2, 4

SCENARIO = Scenario(
    title="one vCPU faults through an entry that the other one rewrites",
    source="KVM f7d9c7b7b902 (2008)",
    machine=MachineConfig(spaces={"A": {DATA: page(OLD_FRAME), OTHER: page(3)}}),
    goals=("fault retried", "store emulated"),
    bugs=("stale-gpte",),
)


@SCENARIO.vcpu(0)
async def reader(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writer(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=NEW_FRAME)
    await cpu.load(DATA)
