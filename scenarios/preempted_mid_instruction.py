"""A store is emulated for a vCPU while another one takes the page away that it goes to.

vCPU 1 stores to a page table of level 2, which traps, so KVM does it: it translates the address,
then stores. The host may preempt KVM in between. vCPU 0 meanwhile points the address that vCPU 1
stores through elsewhere and, if vCPU 1 is preempted, leaves the flush to it. From then on the guest
counts on vCPU 1 storing nowhere but to the new page. KVM cannot take back what it has translated,
so it must not say that vCPU 1 is preempted before the instruction is done.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
FAR = REGION + 0x200000
ALIAS = REGION + 0x1000
UPPER = 0x12
"""The level-2 table: tables lie from frame 0x10 up, four to a space."""
FAR_ENTRY = ALIAS + 8 * (FAR >> 21 & 511)

SCENARIO = Scenario(
    title="a page is taken from a vCPU for which KVM emulates a store to it",
    source="KVM 6cd88243c7e0 (2022)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), ALIAS: page(UPPER)}}, features=("pv-flush",)
    ),
    goals=("store emulated", "flush left to a preempted vCPU"),
    bugs=("preempted-mid-instruction",),
)


@SCENARIO.setup(1)
async def shadow_the_tables(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def takes_the_page(cpu: Guest) -> None:
    await cpu.store_pte(ALIAS, frame=4)
    await cpu.flush_preempted(1)


@SCENARIO.vcpu(1)
async def stores_to_the_table(cpu: Guest) -> None:
    await cpu.load(DATA)  # enters the guest, from which the host may take it then
    await cpu.store(FAR_ENTRY, 0)
