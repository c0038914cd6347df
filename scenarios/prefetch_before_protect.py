"""A shadow page is made, and filled from a table that the other vCPU is writing.

vCPU 0 goes to space B for the first time. It touches DATA, and KVM shadows the table,
write-protects it, and fills in what else the guest uses, NEIGHBOUR among it. Meanwhile vCPU 1, in
space A, which has the table mapped, lets NEIGHBOUR be another frame. Its store traps or does not,
depending on how far KVM has come; if it does not, KVM must not have read that entry yet.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

NEIGHBOUR, DATA = REGION, REGION + 0x1000
UNMAPPED = REGION + 0x9000

SCENARIO = Scenario(
    title="a shadow page is filled from a table that another vCPU writes",
    source="KVM ad86b6c36bbb (2008)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(3)}, "B": {NEIGHBOUR: page(2), DATA: page(4)}},
        starts=("B", "A"),
        features=("prefetch",),
    ),
    goals=("spte prefetched", "store emulated", "mapped table write-protected"),
    bugs=("prefetch-before-protect",),
)


@SCENARIO.setup(0)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(UNMAPPED)


@SCENARIO.setup(1)
async def map_the_table(cpu: Guest) -> None:
    await cpu.store_pte(NEIGHBOUR, frame=2, space="B")


@SCENARIO.vcpu(0)
async def faults_beside_it(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.load(NEIGHBOUR)


@SCENARIO.vcpu(1)
async def moves_the_neighbour(cpu: Guest) -> None:
    await cpu.store_pte(NEIGHBOUR, frame=5, space="B")
