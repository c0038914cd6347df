"""The guest makes a page read-only that it has written, and the host swaps it out.

The host must know whether a page was written since it was last on disk. The spte says so: as long
as it is writable the page may have been written. The guest now makes its entry read-only. It writes
its table natively and loads cr3, and KVM makes the spte follow. With W goes all that the spte knew,
so the page is marked as dirty at that moment. Then the host takes it.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
FRAME = 2

SCENARIO = Scenario(
    title="a written page is made read-only, then swapped out",
    source="KVM 9ed5520dd3c9 (2010)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(FRAME)}}, features=("page-flags", "unsync"), vcpus=1
    ),
    goals=("table synced", "dirty page taken", "page given back"),
    bugs=("dirty-lost-in-sync",),
)


@SCENARIO.setup(0)
async def write_it(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=FRAME)
    await cpu.store(DATA, 1)


@SCENARIO.vcpu(0)
async def makes_it_read_only(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=FRAME, writable=False)
    await cpu.mov_cr3("A")
    await cpu.load(DATA)


@SCENARIO.host("kswapd")
async def swaps(host: Host) -> None:
    await host.reclaim(FRAME)
