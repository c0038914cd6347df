"""A vCPU leaves a processor, comes back, and finds in the TLB what it once left there.

The host moves the thread of a vCPU to another processor whenever it likes. Meanwhile it takes the
frame behind DATA away, and has the vCPU flush: on the processor where it is now. A translation on
the one where it was before is out of reach. So a vCPU that arrives on another processor must
forget what is cached there under its name.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
ELSEWHERE = REGION + 0x1000
FRAME = 2

SCENARIO = Scenario(
    title="a vCPU moves between pCPUs while the host takes a page away",
    source="KVM 4b9ac285e253 (2022, RISC-V); OpenBSD 46cd802afa2f; Intel SDM vol. 3, 28.3 (VPID)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(FRAME), ELSEWHERE: page(3)}},
        vcpus=1,
        pcpus=2,
        features=("vcpu-migration", "vcpu-mode", "notifier"),
    ),
    goals=("vCPU moved", "page given back"),
    bugs=("vcpu-migration-stale-tlb", "bhyve-hostcpu-race"),
)


@SCENARIO.setup(0)
async def warm(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def moves(cpu: Guest) -> None:
    await cpu.load(ELSEWHERE)  # enters, faults, enters again: anywhere
    await cpu.load(DATA)


@SCENARIO.host("reclaim")
async def takes_it(host: Host) -> None:
    await host.reclaim(FRAME)
