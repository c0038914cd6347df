"""The host takes a page whose mapping the guest has just changed.

vCPU 1 has read DATA, so its TLB holds frame 2. vCPU 0 points DATA to another frame, without a trap,
and says INVLPG; it has not told vCPU 1 yet, so vCPU 1 may well go on with frame 2. For the guest
that is fair. But KVM has dropped the spte of frame 2 with the INVLPG, and when the host now takes
the page of frame 2, nothing in KVM's reverse map says that a TLB still leads there. So what drops
an spte flushes every vCPU before it lets go of mmu_lock. With ``-p flush=cr3`` vCPU 0 loads cr3
instead, which syncs the table.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION
OLD_FRAME, NEW_FRAME = 2, 4

SCENARIO = Scenario(
    title="the host takes a page that an unsync table led to",
    source="KVM 4539b35881 (2009), a4ee1ca4a36e (2010)",
    machine=MachineConfig(spaces={"A": {DATA: page(OLD_FRAME)}}, features=("unsync", "notifier")),
    parameters=(Parameter("flush", "invlpg", "how vCPU 0 invalidates", choices=("invlpg", "cr3")),),
    goals=("page given back",),
    bugs=("invlpg-flush-missing",),
)


@SCENARIO.setup(0)
async def leave_the_table_out_of_sync(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store_pte(DATA, frame=OLD_FRAME)


@SCENARIO.setup(1)
async def use_the_page(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.vcpu(0)
async def remaps(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=NEW_FRAME)
    if cpu.params["flush"] == "cr3":
        await cpu.mov_cr3("A")
        await cpu.load(cpu.window(DATA))
    else:
        await cpu.invlpg(DATA)


@SCENARIO.vcpu(1)
async def goes_on(cpu: Guest) -> None:
    await cpu.load(DATA)


@SCENARIO.host("reclaim")
async def takes_the_old_page(host: Host) -> None:
    await host.reclaim(OLD_FRAME)
