"""A guest goes back and forth between two address spaces, and flushes one of them at last.

With PCIDs a guest may switch without a flush, and meets in each address space what it left there.
Here it has changed the page tables of B while it ran on A, and looks at B twice: the first time it
does not flush, so it may see B as it was; the second time it does, so it must not. Meanwhile the
host takes away the mapping through which the table was written, so that nothing is left that would
make KVM flush for reasons of its own.
"""

from __future__ import annotations

from vmm.scenario import REGION, Guest, Host, MachineConfig, Scenario, page

DATA, NEW = REGION, REGION + 0x1000
TABLE_OF_B = 0x17

SCENARIO = Scenario(
    title="a guest switches between PCIDs, with and without a flush",
    source="KVM 1438921c6dc1 (4.20); Intel SDM vol. 3, 4.10.4.1",
    machine=MachineConfig(
        spaces={"A": {DATA: page(2), NEW: page(4)}, "B": {DATA: page(3)}},
        vcpus=1,
        features=("pcid", "flush-debt", "notifier"),
    ),
    goals=("kept root used", "table synced", "old page seen", "new page seen"),
    bugs=("flush-wrong-context",),
    modes=("4-level",),
)


@SCENARIO.setup(0)
async def warm(cpu: Guest) -> None:
    await cpu.set_pcide(True)
    await cpu.load_pcid("B", 2)
    await cpu.store(DATA, 3)
    await cpu.load_pcid("A", 1)
    await cpu.store(NEW, 4)
    await cpu.store_pte(DATA, frame=4, space="B")


@SCENARIO.vcpu(0)
async def switches(cpu: Guest) -> None:
    await cpu.load_pcid("B", 2, keeps=True)
    if await cpu.load(DATA) == 3:
        await cpu.mark("old page seen")
    await cpu.load_pcid("A", 1, keeps=True)
    await cpu.load_pcid("B", 2)
    if await cpu.load(DATA) == 4:
        await cpu.mark("new page seen")


@SCENARIO.host("age")
async def ages(host: Host) -> None:
    await host.age(TABLE_OF_B)
