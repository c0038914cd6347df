"""A guest forks: it writes a page table so often that shadowing it no longer pays.

The tables of space B are still shadowed from when a vCPU ran in it. Now vCPU 0, in space A, makes
B's pages read-only one by one, as fork does. Each write to a shadowed table costs an exit. The
third one in a row to the same table is taken for a flood: KVM zaps the shadow page, which
unprotects the table, and the rest of the burst runs at full speed. When vCPU 0 runs in B, the
next fault shadows the table again, from what it holds by then.

vCPU 1 writes the same table with an instruction that KVM's emulator does not know. If that traps,
the table is unprotected at once and the instruction runs natively.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

FIRST = REGION
OTHER = REGION + 0x4000
WRITES = 4

SCENARIO = Scenario(
    title="a burst of page-table writes unshadows the table",
    source="KVM 86a5ba025d (2007), a436036baf (2007), a25f7e1f8c (2007)",
    machine=MachineConfig(
        spaces={
            "A": {FIRST: page(9)},
            "B": {**{FIRST + n * 0x1000: page(2 + n) for n in range(WRITES)}, OTHER: page(8)},
        }
    ),
    goals=("store emulated", "write flood", "table unprotected"),
    bugs=("remote-flush-missing",),
)


@SCENARIO.setup(0)
async def run_in_b_once(cpu: Guest) -> None:
    await cpu.mov_cr3("B")
    await cpu.load(FIRST)
    await cpu.mov_cr3("A")
    await cpu.load(FIRST)


@SCENARIO.vcpu(0)
async def forks(cpu: Guest) -> None:
    for n in range(WRITES):
        await cpu.store_pte(FIRST + n * 0x1000, frame=2 + n, writable=False, space="B")
    await cpu.mov_cr3("B")
    await cpu.load(FIRST)


@SCENARIO.vcpu(1)
async def writes_oddly(cpu: Guest) -> None:
    await cpu.store_unemulated(cpu.window(OTHER, space="B"), 0)
