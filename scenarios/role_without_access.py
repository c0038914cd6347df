"""Two large pages map the same frames, one of them read-only.

A guest kernel maps 2M of memory twice: writable for itself, and read-only. KVM shadows a large page
by a page of small sptes, which stands for no guest table. Both vCPUs touch the same frame, each
through its mapping. The shadow pages of the two must not be the same one, since their sptes may
not do the same.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, GuestFault, MachineConfig, Scenario, page

DATA = REGION
WRITABLE, READ_ONLY = DATA + (1 << 21), DATA + (2 << 21)
"""The two stretches of 2M behind the region."""
LARGE_PAGE = 1 << 21
"""First byte of the memory that both map."""
READ_ONLY_BITS, WRITABLE_BITS = 0xE5, 0xE7
"""Present, user, accessed, dirty, page size; and writable."""

SCENARIO = Scenario(
    title="a writable and a read-only large page of the same frames",
    source="KVM d28c6cfbbc (2007)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}),
    modes=("pae", "4-level", "5-level"),  # 2M pages
    goals=("stored", "refused"),
    bugs=("role-without-access",),
)


@SCENARIO.setup(0)
async def map_it_twice(cpu: Guest) -> None:
    entry = cpu.window(DATA, level=2)
    await cpu.store(entry + 8, LARGE_PAGE | WRITABLE_BITS)
    await cpu.store(entry + 16, LARGE_PAGE | READ_ONLY_BITS)


@SCENARIO.setup(1)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def stores(cpu: Guest) -> None:
    await cpu.store(WRITABLE, 1)
    await cpu.mark("stored")


@SCENARIO.vcpu(1)
async def tries_to_store(cpu: Guest) -> None:
    await cpu.load(READ_ONLY)
    if isinstance(await cpu.store(READ_ONLY, 2), GuestFault):
        await cpu.mark("refused")
