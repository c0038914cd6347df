"""A guest forks: it writes a page table so often that shadowing it no longer pays.

Each write to a shadowed table costs an exit. The third one in a row to the same table is taken for a
fork or an exit of a process: KVM zaps the shadow page, which unprotects the table, and the rest of
the burst runs at full speed. The next fault through the table shadows it again, from what it holds
by then. Meanwhile the other vCPU uses a page that the burst does not touch.

``-p how=unprotect`` writes with an instruction that the emulator does not know; the table is then
unprotected at once and the instruction runs natively.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Parameter, Scenario, page

FIRST = REGION
OTHER = REGION + 0x4000
WRITES = 4

SCENARIO = Scenario(
    title="a burst of page-table writes unshadows the table",
    source="KVM 86a5ba025d (2007), a436036baf (2007), a25f7e1f8c (2007)",
    machine=MachineConfig(
        spaces={"A": {**{FIRST + n * 0x1000: page(2 + n) for n in range(4)}, OTHER: page(8)}}
    ),
    parameters=(
        Parameter("how", "flood", "what unprotects the table", choices=("flood", "unprotect")),
    ),
    goals=("store emulated", "table unshadowed"),
    bugs=("remote-flush-missing",),
)


@SCENARIO.setup(0)
async def shadow_the_table(cpu: Guest) -> None:
    await cpu.load(FIRST)
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def forks(cpu: Guest) -> None:
    if cpu.params["how"] == "flood":
        for number in range(WRITES):
            await cpu.store_pte(FIRST + number * 0x1000, frame=2 + number, writable=False)
    else:
        await cpu.store_unemulated(cpu.window(FIRST), 0)
    await cpu.mov_cr3("A")
    await cpu.load(FIRST)


@SCENARIO.vcpu(1)
async def uses_another_page(cpu: Guest) -> None:
    await cpu.load(OTHER)
    await cpu.store(OTHER, 1)
