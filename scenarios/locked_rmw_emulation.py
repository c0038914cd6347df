"""Two vCPUs change one page-table entry, one of them with a locked instruction.

vCPU 0 makes the page read-only the way a kernel does it: it reads the entry, and exchanges it for
one without W if it still is what it read. vCPU 1 takes the page away. Both stores trap, since the
table is shadowed. The exchange must find that the entry has gone and leave it alone. If KVM
emulates it as a read, a comparison and a write, the page that vCPU 1 has taken away is back.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
WRITABLE = 1 << 1

SCENARIO = Scenario(
    title="a locked exchange on a shadowed table against a store",
    source="KVM daea3e73cb (2010)",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}),
    goals=("exchange emulated", "exchanged", "not exchanged"),
    bugs=("locked-rmw-emulation", "cmpxchg8b-halves"),
)


@SCENARIO.setup(0)
async def shadow_the_table(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.load(cpu.window(DATA))


@SCENARIO.vcpu(0)
async def protects(cpu: Guest) -> None:
    entry = await cpu.load(cpu.window(DATA))
    assert isinstance(entry, int)
    stored = await cpu.compare_exchange(cpu.window(DATA), entry, entry & ~WRITABLE)
    await cpu.mark("exchanged" if stored else "not exchanged")


@SCENARIO.vcpu(1)
async def unmaps(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=None)
