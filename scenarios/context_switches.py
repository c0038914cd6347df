"""Two vCPUs switch between address spaces: the point of caching shadow pages.

Before January 2007 a cr3 load threw the shadow away, and each switch was paid with a fault for
every page touched afterwards. With the cache the load finds the shadow of the other space where
it left it. Here both vCPUs go round the spaces, from different ones on, and touch a page of each;
the roots are shared, counted, and found again. ``-p no_cache=1`` runs the old MMU, in which the
goal is out of reach.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Parameter, Params, Scenario, page

DATA = REGION
FIRST_FRAME = 0x60
NAMES = "ABCDEFGHIJKLMNOP"


def machine(params: Params) -> MachineConfig:
    count = int(params["spaces"])
    return MachineConfig(
        spaces={name: {DATA: page(FIRST_FRAME + n)} for n, name in enumerate(NAMES[:count])},
        starts=("A", "B"),
        features=("no-cache",) if params["no_cache"] else (),
        shadow_pages=8 * count,
    )


SCENARIO = Scenario(
    title="two vCPUs switch between address spaces",
    source="KVM cea0f0e7ea (2007), 17c3ba9d37 (2007)",
    machine=machine,
    parameters=(
        Parameter("switches", 1, "rounds of each vCPU through the spaces", minimum=1, maximum=64),
        Parameter("spaces", 2, "address spaces", minimum=2, maximum=len(NAMES)),
        Parameter("no_cache", 0, "1: the MMU of before January 2007", minimum=0, maximum=1),
    ),
    goals=("cached root found",),
)


@SCENARIO.vcpu(0, 1)
async def goes_round(cpu: Guest) -> None:
    count = int(cpu.params["spaces"])
    for n in range(int(cpu.params["switches"]) * count):
        await cpu.load(DATA)
        await cpu.mov_cr3(NAMES[(cpu.number + n + 1) % count])
