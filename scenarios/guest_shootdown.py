"""A guest kernel does its own TLB shootdown, with interrupts between its CPUs.

vCPU 0 takes a page away: it clears the entry, drops its own translation, interrupts vCPU 1 and
spins until vCPU 1 has acknowledged; then it may use the frame for something else. The handler on
vCPU 1 drops the translation and acknowledges through memory. Two protocols are stacked here: the
guest's, and KVM's own below it, which must have brought the shadow up to date before the guest
believes that the page is gone. After the shootdown a load of that page must fault.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, MachineConfig, Scenario, page

DATA = REGION
ACK = REGION + 0x1000

SCENARIO = Scenario(
    title="a guest kernel shoots down a translation on its other CPU",
    source="Intel SDM vol. 3, 4.10.5 (propagation of paging-structure changes)",
    machine=MachineConfig(spaces={"A": {DATA: page(2), ACK: page(3)}}),
    goals=("page gone after the shootdown", "store emulated"),
)


@SCENARIO.setup(0)
async def touch_both(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.store(ACK, 0)


@SCENARIO.vcpu(0)
async def shoots(cpu: Guest) -> None:
    await cpu.store_pte(DATA, frame=None)
    await cpu.invlpg(DATA)
    await cpu.send_ipi(1)
    await cpu.wait_for(ACK, 1)
    if not isinstance(await cpu.load(DATA), int):
        await cpu.mark("page gone after the shootdown")


@SCENARIO.vcpu(1)
async def uses_the_page(cpu: Guest) -> None:
    await cpu.load(DATA)
    await cpu.wait_for_interrupt()


@SCENARIO.interrupt(1)
async def acknowledges(cpu: Guest) -> None:
    await cpu.invlpg(DATA)
    await cpu.store(ACK, 1)
