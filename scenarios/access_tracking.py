"""The host ages a page again and again while a vCPU uses it.

Where a processor does not mark sptes as used, KVM makes those that it ages fault: they stay where
they are, but give no rights. The next access faults, puts things right with one exchange, without
the lock, and by that says that the page is in use. The page may have been written before it was
aged: that is told at once, since a page whose spte is not writable looks clean.
"""

from __future__ import annotations

from vmm.scenario import Guest, Host, MachineConfig, Parameter, Scenario

DATA = 0x2000
FRAME = 2

SCENARIO = Scenario(
    title="a page in use is aged, and then taken",
    source="KVM f160c7b7bb32 (2016)",
    machine=MachineConfig(spaces={"R": {}}, mode="real", features=("access-tracking",), vcpus=1),
    modes=("real",),
    parameters=(Parameter("loads", 4, "loads of the page", minimum=1, maximum=64),),
    goals=("tracked spte restored", "young page found", "old page found", "dirty page taken"),
    bugs=("access-track-dirty-lost", "access-track-late-flush"),
    small={"loads": 2},
)


@SCENARIO.setup(0)
async def write_it(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


@SCENARIO.vcpu(0)
async def uses(cpu: Guest) -> None:
    for _ in range(int(cpu.params["loads"])):
        await cpu.load(DATA)


@SCENARIO.host("kswapd")
async def ages(host: Host) -> None:
    await host.age(FRAME)
    await host.age(FRAME)
    await host.reclaim(FRAME)
