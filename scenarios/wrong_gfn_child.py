"""A guest moves a large page while another vCPU faults in it.

KVM shadows a large page by a direct page of small sptes, which maps a fixed stretch of frames.
vCPU 0 makes the pde map another stretch. The store is emulated: guest memory has changed already
when vCPU 1 faults in the area, and the direct page of the old stretch is still linked.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
AREA = DATA + (1 << 21)
"""The 2M behind the region."""
FROM, TO = 1 << 21, 2 << 21
"""First bytes of the stretches."""
LARGE_BITS = 0xE7
"""Present, writable, user, accessed, dirty, page size."""

SCENARIO = Scenario(
    title="a large page is moved while a vCPU faults in it",
    source="KVM 0cb2af2ea66a (2026)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}),
    modes=("pae", "4-level", "5-level"),  # 2M pages
    goals=("store emulated", "wrong child dropped"),
    bugs=("wrong-gfn-child",),
)


@SCENARIO.setup(0)
async def use_the_large_page(cpu: Guest) -> None:
    await cpu.store(cpu.window(DATA, level=2) + 8, FROM | LARGE_BITS)
    await cpu.load(AREA)


@SCENARIO.setup(1)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def moves_it(cpu: Guest) -> None:
    await cpu.store(cpu.window(DATA, level=2) + 8, TO | LARGE_BITS)


@SCENARIO.vcpu(1)
async def faults_in_it(cpu: Guest) -> None:
    await cpu.load(AREA + 0x1000)
