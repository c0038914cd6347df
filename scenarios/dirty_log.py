"""Userspace migrates a guest: it reads the dirty log while the guest writes.

Each page that the guest writes must be told by the next reading, or the copy at the other end is
old. KVM logs a page when it becomes writable, takes W away when the log is read, and flushes. So a
write goes to a page that is in the log again, or to one that is being told right now and will
be copied only afterwards. Both vCPUs write here, one of them to a page that is not mapped yet.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
OTHER = REGION + 0x1000

SCENARIO = Scenario(
    title="the dirty log is read while two vCPUs write",
    source="KVM 90cb0529dd (2007), 171d595d3b3 (2008)",
    machine=MachineConfig(spaces={"A": {DATA: page(2), OTHER: page(3)}}, features=("dirty-log",)),
    goals=("dirty page write-protected", "log read"),
    bugs=("dirty-log-copied-first",),
)


@SCENARIO.setup(0)
async def dirty_one(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


@SCENARIO.vcpu(0)
async def writes_it_again(cpu: Guest) -> None:
    await cpu.store(DATA, 2)


@SCENARIO.vcpu(1)
async def writes_another(cpu: Guest) -> None:
    await cpu.store(OTHER, 3)


@SCENARIO.host("migrate")
async def reads_the_log(host: Host) -> None:
    await host.get_dirty_log()
    await host.get_dirty_log()
    await host.mark("log read")
