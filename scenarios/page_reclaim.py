"""The host takes a guest page away while both vCPUs use it.

The host is short of memory and wants the frame behind DATA. It unmaps the frame from every shadow
table with the help of the reverse map, makes sure that no TLB holds it, and only then gives it
back. A vCPU that touches DATA later faults and gets another frame. If the flush does not reach
the other CPU, that CPU goes on reading and writing a page that may belong to somebody else by
now: an escape from guest to host.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
FRAME = 2

SCENARIO = Scenario(
    title="the host takes back a page that both vCPUs have mapped",
    source="KVM 8a7ae055f3 (2008, partial swapping); Intel SDM vol. 3, 4.10.4.4",
    machine=MachineConfig(spaces={"A": {DATA: page(FRAME)}}, features=("host-paging",)),
    goals=("page given back",),
    bugs=("remote-flush-missing", "page-freed-before-flush"),
)


@SCENARIO.setup(0)
async def map_it(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


@SCENARIO.setup(1)
async def map_it_too(cpu: Guest) -> None:
    await cpu.store(DATA, 2)


@SCENARIO.vcpu(0)
async def reads(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def writes(cpu: Guest) -> None:
    await cpu.store(DATA, 3)


@SCENARIO.host("reclaim")
async def takes_it(host: Host) -> None:
    await host.reclaim(FRAME)
