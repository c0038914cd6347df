"""The host zaps the root that a vCPU is running on, while another vCPU loads the same one.

A root in use cannot go back to the pool: a processor may be walking it. So it is emptied and marked
invalid, and every vCPU is asked to let go of its root before it runs the guest again. The guest
table behind it is no longer write-protected from here on, so nobody may run on the old root any
more, and nobody may find it in the cache: vCPU 1, which loads cr3 at this very moment, must get a
new one. The last user to let go of the invalid root frees it.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
ROOT_OF_A = 0x10

SCENARIO = Scenario(
    title="the root of one vCPU is zapped while another one loads it",
    source="KVM 2e53d63acb (2008)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "B": {}}, starts=("A", "B"), features=("mmu-reload",)
    ),
    modes=("4-level",),  # the root that the host zaps is its level-4 table
    goals=("root in use zapped", "invalid root freed", "entry cancelled"),
    bugs=("zapped-root-lookup",),
)


@SCENARIO.setup(0)
async def warm(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def runs_on(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def switches_to_it(cpu: Guest) -> None:
    await cpu.mov_cr3("A")
    await cpu.load(DATA)


@SCENARIO.host("alias")
async def zaps(host: Host) -> None:
    await host.zap_table(ROOT_OF_A)
