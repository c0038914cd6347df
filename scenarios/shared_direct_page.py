"""Two large pages map the same frames, one read-only, the other writable but still clean.

As long as a large page is clean KVM maps it read-only, so that the first write sets its dirty bit.
Its shadow is then the same as that of a large page which is read-only for good, and both share it.
vCPU 0 writes: from then on its large page needs a shadow of its own.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, GuestFault, MachineConfig, Scenario, page

DATA = REGION
WRITABLE, READ_ONLY = DATA + (1 << 21), DATA + (2 << 21)
"""The two stretches of 2M behind the region."""
LARGE_PAGE = 1 << 21
"""First byte of the memory that both map."""
READ_ONLY_BITS, CLEAN_BITS = 0xE5, 0xA7
"""Present, user, accessed, page size; dirty in the first, writable in the second."""

SCENARIO = Scenario(
    title="a clean writable and a read-only large page of the same frames",
    source="KVM 9e7b0e7fba45 (2010)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}),
    modes=("pae", "4-level", "5-level"),  # 2M pages
    goals=("stored", "refused", "wrong child dropped"),
    bugs=("shared-direct-page",),
)


@SCENARIO.setup(0)
async def map_it_twice(cpu: Guest) -> None:
    entry = cpu.window(DATA, level=2)
    await cpu.store(entry + 8, LARGE_PAGE | CLEAN_BITS)
    await cpu.store(entry + 16, LARGE_PAGE | READ_ONLY_BITS)
    await cpu.load(WRITABLE)


@SCENARIO.setup(1)
async def share_it(cpu: Guest) -> None:
    await cpu.load(READ_ONLY)


@SCENARIO.vcpu(0)
async def stores(cpu: Guest) -> None:
    await cpu.store(WRITABLE, 1)
    await cpu.mark("stored")


@SCENARIO.vcpu(1)
async def tries_to_store(cpu: Guest) -> None:
    if isinstance(await cpu.store(READ_ONLY, 2), GuestFault):
        await cpu.mark("refused")
