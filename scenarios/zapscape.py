"""A page is the root of one vCPU and a child of another root, and shadow pages are running out.

vCPU 1 runs on the 4-level table T. vCPU 0 pages in 5 levels; an entry of its root table leads to T
as well, so the shadow of T is linked there. Now vCPU 0 goes on to another space. Its old root is
the oldest shadow page, and nobody's; its new root takes the last page that is not held back. vCPU 1
faults, and too few pages are free: KVM zaps the oldest page and all that this one alone led to. T
has no other parent, but it is the root that the fault is about to build on. So the fault must look
at its root after that, and start over.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000
UNMAPPED = REGION + 0x9000
TABLE_T = 0x10
"""The root table of space A: tables lie from frame 0x10 up, the root first."""
THROUGH_T = 1 << 48
"""Where space B has what T maps: the second entry of its root table."""

SCENARIO = Scenario(
    title="shadow pages are recycled, and with a parent goes the root that a fault needs",
    source="KVM 2abd5287f083 (2026)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), OTHER: page(3)}, "B": {DATA: page(4)}, "C": {}},
        space_modes={"B": "5-level", "C": "5-level"},
        starts=("B", "A"),
        features=("stale-root", "orphan-zap", "long-mode-sharing"),
        shadow_pages=13,
    ),
    modes=("4-level",),  # T is a root of a 4-level guest, and below that of a 5-level guest
    goals=("pages recycled", "orphan zapped", "root in use zapped", "stale root found"),
    bugs=("zapscape",),
)


@SCENARIO.setup(0)
async def link_t(cpu: Guest) -> None:
    await cpu.store(cpu.window(DATA, "B", 5) + 8, (TABLE_T << 12) | 0x27)
    await cpu.load(THROUGH_T + DATA)


@SCENARIO.setup(1)
async def run_on_t(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def goes_elsewhere(cpu: Guest) -> None:
    await cpu.mov_cr3("C")
    await cpu.load(UNMAPPED)


@SCENARIO.vcpu(1)
async def faults(cpu: Guest) -> None:
    await cpu.load(OTHER)
