"""Two vCPUs touch the same page for the first time: the whole life of a shadow fault.

Nothing is shadowed yet. Each vCPU loads its root, enters the guest, and its processor walks the
shadow from the root until it meets an entry that is not present. KVM walks the guest's own tables,
takes mmu_lock, and makes the missing shadow pages one by one: find or allocate, write-protect the
guest table, read the gpte again, link. The vCPU that comes second finds the pages of the first.
The page is clean, so the first store must set Dirty in the guest's table before W is granted.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Parameter, Params, Scenario, page

DATA = REGION


def machine(params: Params) -> MachineConfig:
    return MachineConfig(
        spaces={"A": {DATA: page(2, fresh=True)}},
        vcpus=int(params["vcpus"]),
        features=("no-cache",) if params["no_cache"] else (),
        shadow_pages=16,
    )


SCENARIO = Scenario(
    title="vCPUs fault on the same fresh page",
    source="KVM cea0f0e7ea (2007), 374cbac033 (2007)",
    machine=machine,
    parameters=(
        Parameter("vcpus", 2, "number of vCPUs", minimum=1, maximum=3),
        Parameter("no_cache", 0, "1: the MMU of before January 2007", minimum=0, maximum=1),
    ),
    goals=("stored",),
)


@SCENARIO.vcpu()
async def loads_and_stores(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store(DATA, cpu.number + 1)
    await cpu.mark("stored")
