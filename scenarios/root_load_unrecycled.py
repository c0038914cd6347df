"""A guest kernel switches through its processes without touching any of their pages.

Each MOV CR3 to an address space that was not run before takes one shadow page, for the root; no
fault comes in between. The pool holds six pages, and the first space has taken four of them. So the
root loads themselves must recycle: the roots of before are in nobody's use any more and go first,
oldest ones first, and the two vCPUs' own roots stay.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION

SCENARIO = Scenario(
    title="root after root is loaded from a small pool",
    source="KVM 7f7417d67e, 22d95b1282 (2007)",
    machine=MachineConfig(
        spaces={name: {DATA: page(2)} for name in ("A", "B", "C", "D")},
        starts=("A", "A"),
        shadow_pages=6,
        min_free=2,
        refill=2,
    ),
    modes=("4-level", "5-level"),  # the pool is counted for these
    goals=("pages recycled", "loaded at last"),
    bugs=("root-load-unrecycled",),
)


@SCENARIO.setup(0)
async def run_in_a(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def switches(cpu: Guest) -> None:
    await cpu.mov_cr3("B")
    await cpu.invlpg(DATA)
    await cpu.mov_cr3("C")
    await cpu.invlpg(DATA)


@SCENARIO.vcpu(1)
async def switches_once(cpu: Guest) -> None:
    await cpu.mov_cr3("D")
    await cpu.invlpg(DATA)
    await cpu.mark("loaded at last")
