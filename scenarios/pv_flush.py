"""A guest leaves a flush to a vCPU that is preempted, and goes on at once.

vCPU 0 points DATA to another frame. It must make sure that vCPU 1 uses the old frame no longer. If
vCPU 1 runs it would take an IPI, which is left out here; if the host has preempted it, a flag in
shared memory is enough: KVM flushes before vCPU 1 runs again. The table of DATA is unsync, so the
store does not trap, and the shadow is as old as the TLB: KVM must see to both. And the flag must
not be lost if it is set at the very moment at which vCPU 1 is scheduled in.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION

SCENARIO = Scenario(
    title="a guest has a preempted vCPU flush by a flag in shared memory",
    source="KVM f38a7b75267f (2017)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}, features=("pv-flush",)),
    goals=("flush left to a preempted vCPU", "table synced"),
    bugs=("pv-flush-no-sync", "pv-flush-flag-lost"),
)


@SCENARIO.setup(0)
async def leave_the_table_out_of_sync(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store_pte(DATA, frame=2)


@SCENARIO.setup(1)
async def use_the_page(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def remaps(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=4)
    await cpu.flush_preempted(1)


@SCENARIO.vcpu(1)
async def goes_on(cpu: Guest) -> None:
    await cpu.load(DATA)  # enters the guest, from which the host may take it then
    await cpu.load(DATA)
