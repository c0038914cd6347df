"""A PAE guest changes the top of its tables, and nothing happens until CR3 is loaded again.

In PAE mode the processor reads the four top-level entries when CR3 is loaded and keeps them in
registers. vCPU 1 clears the entry that leads to DATA, while vCPU 0 uses DATA: vCPU 0 goes on as if
nothing had been stored, with INVLPG or without, since the page that holds the entries is not read
by a walk. KVM does the same: the roots of the shadow come from the latched entries, and that page
is neither shadowed nor write-protected, so the store does not even trap. Only the next load of CR3,
of the very same value, makes the change take effect. An entry with reserved bits gives #GP there,
and the old ones stay.
"""

from __future__ import annotations

from vmm.scenario import REGION, GeneralProtection, Guest, MachineConfig, Scenario, page

DATA = REGION

SCENARIO = Scenario(
    title="latched PDPTEs outlive a store to their table",
    source="KVM 1342d3536d, 1b0973bd8f (2007); Intel SDM vol. 3, 4.4.1",
    machine=MachineConfig(spaces={"A": {DATA: page(2)}}),
    goals=("still mapped", "gone", "refused"),
    modes=("pae",),  # no other mode latches
)


@SCENARIO.setup(0)
async def map_it(cpu: Guest) -> None:
    await cpu.store(DATA, 7)


@SCENARIO.setup(1)
async def map_the_top_table(cpu: Guest) -> None:
    await cpu.load(cpu.window(DATA, level=3))


@SCENARIO.vcpu(0)
async def uses_it(cpu: Guest) -> None:
    await cpu.invlpg(DATA)
    if await cpu.load(DATA) == 7:
        await cpu.mark("still mapped")
    if isinstance(await cpu.mov_cr3("A"), GeneralProtection):
        await cpu.mark("refused")
    elif not isinstance(await cpu.load(DATA), int):
        await cpu.mark("gone")


@SCENARIO.vcpu(1)
async def clears_it(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=None, level=3)
    await cpu.store(cpu.window(DATA, level=3), 0x1000 | 0x7)
