"""The host zaps all shadow pages of a guest that needs them again at once.

The guest waits for a word to change, and every look at it needs four shadow pages. The host zaps
all pages, a few at a time, and only then takes the page with the word, in whose place the guest
will see a fresh one and go on. Each time the host has let go of mmu_lock, the guest may have built
its pages anew. If the host went on until there is no page, both could go on like that for ever:
the guest as fast as the host, and neither comes to its end.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA = REGION
FRAME = 2

SCENARIO = Scenario(
    title="all shadow pages are zapped while the guest builds them again",
    source="KVM 5304b8d37c (2013), 92f58b5c01 (2019)",
    machine=MachineConfig(
        spaces={"A": {DATA: page(FRAME)}}, vcpus=1, features=("fast-zap", "notifier")
    ),
    modes=("4-level", "5-level"),  # other guests need fewer pages than a batch
    goals=("all zapped", "page given back"),  # what the round reaches would count as progress
    bugs=("zap-all-livelock",),
)


@SCENARIO.setup(0)
async def set_the_word(cpu: Guest) -> None:
    await cpu.store(DATA, 1)


@SCENARIO.vcpu(0)
async def waits_for_the_word(cpu: Guest) -> None:
    while await cpu.load(DATA) == 1:
        pass


@SCENARIO.host("alias")
async def zaps(host: Host) -> None:
    await host.zap_all()
    await host.mark("all zapped")
    await host.reclaim(FRAME)
