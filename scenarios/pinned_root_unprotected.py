"""A store that KVM cannot emulate hits the root table of an address space that is in use.

vCPU 0 runs in space B. vCPU 1 stores to B's root table with an instruction that KVM's emulator does
not know. Unprotecting the table would let it run natively; but the shadow of the table is the root
that vCPU 0 runs on, so it is emptied and stays. The table is still write-protected. All that KVM
of the time can do is to fail, and it must: to say that it is done and to run the instruction again
leads back here for ever.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION

SCENARIO = Scenario(
    title="a store that cannot be emulated to the root table of another vCPU",
    source="KVM a436036baf, 3bb65a22a4 (2007); 2e53d63acb (2008)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}, "B": {DATA: page(3)}}, starts=("B", "A")),
    modes=("4-level",),  # the root table must be one that is shadowed itself
    goals=("root in use zapped", "emulation failed"),
    bugs=("pinned-root-unprotected",),
)


@SCENARIO.setup(0)
async def run_in_b(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.setup(1)
async def map_the_table(cpu: Guest) -> None:
    await cpu.load(cpu.window(DATA, "B", 4))


@SCENARIO.vcpu(0)
async def goes_on(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes_oddly(cpu: Guest) -> None:
    await cpu.store_unemulated(cpu.window(DATA, "B", 4) + 8, 0)
