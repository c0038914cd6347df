"""Two vCPUs take shadow pages from a pool that has enough for one of them.

The pool holds seven pages; two serve as roots. Each vCPU is about to fault in its own space and
needs three more. Whoever comes second must find that too few are left, and recycle the oldest ones
under the very lock that it holds while it takes them. If it has counted the free pages earlier and
let go of the lock, it believes in pages that the other one has taken.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
UNMAPPED = REGION + 0x9000

SCENARIO = Scenario(
    title="two vCPUs take pages from a pool that has enough for one",
    source="KVM ebeace8609 (2007), eb787d10af (2008)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "B": {DATA: page(3)}},
        starts=("A", "B"),
        shadow_pages=7,
        min_free=4,
        refill=4,
    ),
    modes=("4-level", "5-level"),  # the pool is counted for these
    goals=("pages recycled", "loaded"),
    bugs=("recycle-outside-lock",),
)


@SCENARIO.setup(0, 1)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(UNMAPPED)


@SCENARIO.vcpu()
async def loads(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.mark("loaded")
