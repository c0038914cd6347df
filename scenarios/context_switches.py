"""Two vCPUs switch between two address spaces: the point of caching shadow pages.

Before January 2007 a cr3 load threw the shadow away, and each switch was paid with a fault for
every page touched afterwards. With the cache the load finds the shadow of the other space where
it left it. Here both vCPUs switch to and fro and touch a page of each space; the roots are
shared, counted, and found again. ``-p no_cache=1`` runs the old MMU, in which the goal is out of
reach.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Parameter, Params, Scenario, page

DATA = REGION


def machine(params: Params) -> MachineConfig:
    return MachineConfig(
        spaces={"A": {DATA: page(2)}, "B": {DATA: page(3)}},
        starts=("A", "B"),
        features=("no-cache",) if params["no_cache"] else (),
        shadow_pages=16,
    )


SCENARIO = Scenario(
    title="two vCPUs switch between two address spaces",
    source="KVM cea0f0e7ea (2007), 17c3ba9d37 (2007)",
    machine=machine,
    parameters=(
        Parameter("switches", 1, "cr3 loads of each vCPU there and back", minimum=1, maximum=64),
        Parameter("no_cache", 0, "1: the MMU of before January 2007", minimum=0, maximum=1),
    ),
    goals=("cached root found",),
)


@SCENARIO.vcpu(0)
async def from_a_to_b(cpu: Guest) -> None:
    for _ in range(int(cpu.params["switches"])):
        await cpu.load(DATA)
        await cpu.mov_cr3("B")
        await cpu.load(DATA)
        await cpu.mov_cr3("A")


@SCENARIO.vcpu(1)
async def from_b_to_a(cpu: Guest) -> None:
    for _ in range(int(cpu.params["switches"])):
        await cpu.load(DATA)
        await cpu.mov_cr3("A")
        await cpu.load(DATA)
        await cpu.mov_cr3("B")
