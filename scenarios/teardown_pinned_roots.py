"""A VM ends: everything that the shadow MMU has goes back.

Both vCPUs run in an address space of their own until userspace closes them. The thread that closed
the VM last then lets go of both roots and zaps every page; with the pages go their entries in the
reverse map and their parent links. If it frees pages before it has let go of all the roots, the
other vCPU's root counts as in use and stays behind.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION

SCENARIO = Scenario(
    title="the last user of a VM destroys it",
    source="KVM f51234c2cd, 9ede74e0af, 7b53aa5650 (2007)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2)}, "B": {DATA: page(2)}},
        starts=("A", "B"),
        features=("teardown",),
    ),
    goals=("VM destroyed",),
    bugs=("teardown-pinned-roots",),
)


@SCENARIO.setup(0)
async def warm(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.setup(1)
async def load_the_root(cpu: Guest) -> None:
    await cpu.load(DATA + 0x9000)


@SCENARIO.vcpu()
async def runs_and_ends(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.close()


@SCENARIO.host("last-user")
async def destroys(host: Host) -> None:
    await host.destroy_vm()
