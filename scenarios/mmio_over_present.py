"""A gpte that maps memory is made to name a device while another vCPU writes the page.

vCPU 0 has the page mapped read-only, since it was only read so far. vCPU 1 makes the gpte name a
frame without memory; the store is emulated, and memory has changed before the shadow follows. In
between vCPU 0 writes and faults: its walk sees the new gpte, there is no memory, and a marker goes
where the spte of the old frame still is. That spte must be dropped like any other: from the reverse
map, and from the TLBs.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
LOW = (0, 0x1000)
"""The only slot."""
DEVICE_FRAME = 0x1000

SCENARIO = Scenario(
    title="an entry of memory becomes one of a device",
    source="KVM aad885e77496 (2026)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2, fresh=True)}}, features=("mmio-sptes",), memslots=(LOW,)
    ),
    goals=("store emulated",),
    bugs=("mmio-over-present",),
)


@SCENARIO.setup(0)
async def read_it(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.setup(1)
async def map_the_gpte(cpu: Guest) -> None:
    await cpu.load(cpu.window(DATA))


@SCENARIO.vcpu(0)
async def writes(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


@SCENARIO.vcpu(1)
async def makes_it_a_device(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=DEVICE_FRAME)
    await cpu.invlpg(DATA)
