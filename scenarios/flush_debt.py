"""KVM owes a flush when the host takes a page.

vCPU 0 has a page in its TLB. vCPU 1 has unmapped it, without a trap, and loads cr3, with which KVM
syncs the table and drops the spte. It does not flush vCPU 0: the guest has not told vCPU 0 yet, so
the guest itself must reckon with the old translation. But the reverse map is empty now, and a host
thread that takes the page finds nothing to zap. It must ask whether a flush is owed.
"""

from __future__ import annotations

from vmm.scenario import PAGE_BYTES, REGION, Guest, Host, MachineConfig, Parameter, Scenario, page

DATA = REGION + 0x80000
NEIGHBOURS = {REGION + n * PAGE_BYTES: page(0x80 + n) for n in range(64)}
FRAME = 2

SCENARIO = Scenario(
    title="a dropped spte is still in a TLB when the host takes its page",
    source="KVM a4ee1ca4a36e (2010)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(FRAME), **NEIGHBOURS}}, features=("flush-debt", "notifier")
    ),
    parameters=(
        Parameter("loads", 12, "loads of vCPU 0", minimum=1, maximum=64),
        Parameter("neighbours", 16, "pages that the sync looks at first", minimum=0, maximum=64),
    ),
    goals=("flush owed", "page given back"),
    bugs=("tlbs-dirty-notifier",),
    small={"loads": 1, "neighbours": 0},
)


@SCENARIO.setup(0)
async def use_the_page(cpu: Guest) -> None:
    await cpu.load(DATA)
    for n in range(int(cpu.params["neighbours"])):
        await cpu.load(REGION + n * PAGE_BYTES)


@SCENARIO.setup(1)
async def unmap_it_in_an_unsync_table(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=None)


@SCENARIO.vcpu(0)
async def goes_on(cpu: Guest) -> None:
    for _ in range(int(cpu.params["loads"])):
        await cpu.load(DATA)


@SCENARIO.vcpu(1)
async def loads_cr3(cpu: Guest) -> None:
    await cpu.mov_cr3("A")
    await cpu.load(cpu.window(DATA))


@SCENARIO.host("reclaim")
async def takes_the_page(host: Host) -> None:
    await host.reclaim(FRAME)
