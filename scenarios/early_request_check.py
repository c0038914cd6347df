"""A vCPU enters the guest while the host takes away a page that it has in its TLB.

The host asks the vCPU to flush. If the vCPU is in the guest, or on its way in, it is interrupted;
if it is outside, no interrupt is sent, since it will look at its requests before it enters. So that
last look decides: it must come after the vCPU has switched interrupts off and published that it
is going in. Otherwise the request falls between the look and the entry. vCPU 0 kicks vCPU 1
meanwhile, so that interrupts nobody waits for cross those that the host waits for.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000
FRAME = 2

SCENARIO = Scenario(
    title="a vCPU enters the guest while it is asked to flush",
    source="KVM 6b7e2d0991 (2011), d4acf7e7abe4 (2008)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(FRAME), OTHER: page(3)}},
        features=("host-paging", "vcpu-mode"),
    ),
    goals=("page given back", "entry cancelled", "kicked before entry"),
    bugs=("early-request-check", "ipi-not-awaited"),
)


@SCENARIO.setup(1)
async def map_it(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


@SCENARIO.setup(0)
async def map_another(cpu: Guest) -> None:
    await cpu.load(OTHER)


@SCENARIO.vcpu(0)
async def kicks(cpu: Guest) -> None:
    await cpu.send_ipi(1)


@SCENARIO.vcpu(1)
async def uses(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.interrupt(1)
async def handles(cpu: Guest) -> None:
    await cpu.mark("interrupted")


@SCENARIO.host("reclaim")
async def takes_it(host: Host) -> None:
    await host.reclaim(FRAME)
