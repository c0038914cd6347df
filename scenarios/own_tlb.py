"""A vCPU makes a page table of a page that it has just written, and goes on to write it.

Nobody else is there. The translation through which it wrote the page is in its own TLB, which an
exit does not empty. So when KVM takes W from the page, it must make its own vCPU flush too.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
FRAME = 2
FAR = REGION + (2 << 20)
"""Where the page leads once it is a table: another entry of the same table of level 2."""
LEAF = 3 << 12 | 0x67
OTHER = 4 << 12 | 0x67

SCENARIO = Scenario(
    title="one vCPU writes a page, makes it a page table, and writes it again",
    source="KVM 40907d5768 (2007)",
    machine=MachineConfig(spaces={"A": {DATA: page(FRAME)}}, vcpus=1),
    modes=("4-level", "5-level", "pae"),
    goals=("mapped table write-protected", "store emulated"),
    bugs=("local-flush-missing",),
)


@SCENARIO.vcpu(0)
async def writes_its_tables(cpu: Guest) -> None:
    await cpu.store(DATA, LEAF)
    await cpu.store_pte(FAR, frame=FRAME, level=2)
    await cpu.load(FAR)
    await cpu.store(DATA, OTHER)
    await cpu.invlpg(FAR)
    await cpu.load(FAR)
