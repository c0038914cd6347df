"""A pool of shadow pages too small for what two vCPUs use.

Each address space needs four shadow pages, and the pool holds seven. When a fault finds fewer
than four free, KVM zaps the oldest pages first, whoever built them: also pages that the other
vCPU is walking at this very moment, and its root, which must stay while it is in use. The vCPU
that lost its pages faults and builds them again.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION

SCENARIO = Scenario(
    title="two vCPUs share a pool that is too small for both",
    source="KVM ebeace8609 (2007), eb787d10af (2008), 3bb65a22a4 (2007)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "B": {DATA: page(3)}},
        starts=("A", "B"),
        shadow_pages=7,
        min_free=4,
        refill=5,
    ),
    modes=("4-level", "5-level"),  # other guests pin four roots each, or need fewer pages
    goals=("pages recycled", "root in use zapped"),
    bugs=("remote-flush-missing", "recycle-under-walk"),
)


@SCENARIO.setup(0)
async def warm(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def in_a(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def in_b(cpu: Guest) -> None:
    await cpu.load(DATA)
