"""One vCPU maps a page table that is shadowed, while the other one tries to write it.

The leaf table is shadowed, so KVM must not map it writable: each store to it has to trap. vCPU 0
takes a mapping of the table away and puts it back; both stores trap, and KVM updates the spte.
Meanwhile the processor of vCPU 1 walks the very entry that is being made. It must find either
nothing or the spte as it is to be, without W, and never a stage on the way.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Parameter, Scenario, page

TABLE = 0x13
"""The leaf table of the only space: tables lie from frame 0x10 up, the root first."""
ALIAS = REGION
"""Where the guest has mapped it a second time."""

SCENARIO = Scenario(
    title="a mapping of a shadowed table is made while another vCPU writes through it",
    source="KVM 0d551bb698 (2007)",
    machine=MachineConfig(spaces={"A": {ALIAS: page(TABLE)}}),
    parameters=(Parameter("rounds", 12, "how often it is mapped", minimum=1, maximum=64),),
    goals=("store emulated",),
    bugs=("spte-built-in-place",),
    small={"rounds": 1},
)


@SCENARIO.setup(0, 1)
async def shadow_the_table(cpu: Guest) -> None:
    await cpu.load(ALIAS)
    await cpu.load(cpu.window(ALIAS))


@SCENARIO.vcpu(0)
async def maps_the_table(cpu: Guest) -> None:
    for _ in range(int(cpu.params["rounds"])):
        await cpu.store_pte(ALIAS, frame=None)
        await cpu.store_pte(ALIAS, frame=TABLE)


@SCENARIO.vcpu(1)
async def writes_through_it(cpu: Guest) -> None:
    for _ in range(int(cpu.params["rounds"])):
        await cpu.store(ALIAS + 0x800, 0)
